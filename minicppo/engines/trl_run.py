"""Our configurations on TRL: the same policy, problems, reward, updates and run directory as the local trainer's.

What differs: TRL deals a rollout's responses out to minibatches one by one, not by whole groups, and keeps groups whose
rewards are all equal (their advantages are zero); `token-mean` divides by the rollout's mean tokens per update; with
`normalize_std` it adds 1e-4, not 1e-6, to the standard deviation. No certificate and no trace are written.
"""

import dataclasses
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback

from minicppo.engines.trl_config import CPPOConfig
from minicppo.engines.trl_log import RunLog, whole_checkpoint
from minicppo.engines.trl_settings import WITHOUT_EFFECT, micro_batches, trl_settings
from minicppo.engines.trl_trainer import CPPOTrainer
from minicppo.rl.config import RunConfig
from minicppo.rl.evaluate import held_out_problems
from minicppo.rl.policy import Policy, load_policy, save_policy
from minicppo.rl.run_dir import RunDir
from minicppo.rl.seeding import rng_for
from minicppo.rl.tasks import Problem, Task, sample_problems
from minicppo.rl.trainer import OnEvent, starting_policy
from minicppo.text import nearest


def train(config: RunConfig, run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Train with TRL and return the run's folder, laid out as by `minicppo.rl.trainer.train`.

    Under torchrun every process calls this; the first writes the run.

    Raises:
        FileExistsError: the folder already holds a run.
        ValueError: a setting that TRL cannot carry out, with the way out.
    """
    trl_config(config, Path(run_dir))  # before any work
    run = RunDir(Path(run_dir))
    if is_main():
        run.require_vacant()
        held_out_problems(config.make_task(), config)
    start = starting_policy(config, on_event)
    if is_main():
        RunDir.create(run_dir, config)
    return _run_to_end(run, config, start, on_event, None)


def resume(run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Continue a run from its newest checkpoint as if it had never stopped: on a CPU, to the bit.

    Raises:
        FileNotFoundError: the folder holds no run.
        BlockingIOError: another process is writing it.
    """
    run = RunDir.open(run_dir)
    if run.finished:
        return run.path
    config = run.config()
    checkpoint = whole_checkpoint(run)
    start = starting_policy(config, on_event) if checkpoint is None else load_policy(checkpoint, config.model.chat)
    return _run_to_end(run, config, start, on_event, checkpoint)


def trl_config(config: RunConfig, run_dir: Path) -> CPPOConfig:
    """The configuration as TRL's.

    Raises:
        ValueError: a setting that TRL cannot carry out, with the way out.
    """
    settings, horizon = config.train, config.max_new_tokens(config.make_task())
    if settings.staleness:
        raise ValueError(f"train.staleness={settings.staleness}: TRL samples with the newest weights. Way out: 0")
    if settings.loss_agg_mode == "seq-mean-token-sum-norm" and settings.horizon not in (None, horizon):
        raise ValueError(
            f"train.horizon={settings.horizon}: TRL divides by max_new_tokens={horizon}. Way out: null, or scale the "
            "learning rate"
        )
    if config.rollout.autocast != "same":
        raise ValueError(
            f"rollout.autocast={config.rollout.autocast}: TRL samples in the precision it scores in. Way out: same"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    responses, rows, accumulation = micro_batches(config, world)
    if rows * accumulation * world != responses:
        raise ValueError(
            f"{responses} responses an update do not split into micro-batches of {rows} on {world} processes. Way out: "
            "a train.micro_batch that divides them"
        )
    for override in config.cluster.overrides:
        key = override.partition("=")[0]
        if key not in CPPOConfig.__dataclass_fields__:
            known = nearest(key, list(CPPOConfig.__dataclass_fields__))
            raise ValueError(f"cluster.overrides: TRL has no setting {key!r}{known}")
        if key in WITHOUT_EFFECT:
            raise ValueError(
                f"cluster.overrides: {override} would change nothing. Way out: train.lr and its neighbours"
            )
    with quiet():
        return CPPOConfig(**trl_settings(config, run_dir, world))


def _run_to_end(
    run: RunDir, config: RunConfig, start: Policy, on_event: OnEvent | None, checkpoint: Path | None
) -> Path:
    torch.set_num_threads(config.threads)
    task, settings = config.make_task(), config.train
    policy = dataclasses.replace(start, autocast=config.autocast_dtype())
    problems = _problems(config, task)
    optimizer = torch.optim.AdamW(
        policy.model.to(config.resolved_device()).parameters(),
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / max(settings.lr_warmup, 1)))
    log = RunLog(run, config, task, policy, on_event)

    def reward(completion_ids: list[list[int]], index: list[int], log_metric: Any, **_: Any) -> list[float]:
        asked = [(problems[i], policy.decode(ids)) for i, ids in zip(index, completion_ids, strict=True)]
        log_metric("format_rate", sum(task.well_formed(problem, text) for problem, text in asked) / len(asked))
        return [task.score(problem, text) for problem, text in asked]

    trainer = CPPOTrainer(
        policy.model,
        args=trl_config(config, run.path),
        reward_funcs=reward,
        processing_class=policy.tokenizer,
        train_dataset=Dataset.from_list(
            [{"prompt": _prompt(policy, problem), "index": i} for i, problem in enumerate(problems)]
        ),
        optimizers=(optimizer, warm),
        callbacks=[log] if is_main() else [],
    )
    trainer.remove_callback(PrinterCallback)
    with quiet(), log.open(checkpoint) if is_main() else nullcontext():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if is_main():
            save_policy(policy, run.checkpoints / f"{settings.iterations:06d}" / "policy")
            run.write_summary(config)
    return run.path


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that TRL still uses names which transformers is about to drop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*checkpointing.* is deprecated", FutureWarning)
        yield


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def _problems(config: RunConfig, task: Task) -> list[Problem]:
    """All training problems of the run: those that the local trainer draws, iteration by iteration."""
    return [
        problem
        for iteration in range(config.train.iterations)
        for problem in sample_problems(
            task, config.rollout.prompts, rng_for(config.seed, "rollout-problems", iteration), "train"
        )
    ]


def _prompt(policy: Policy, problem: Problem) -> Any:
    """As TRL expects it: a conversation where there is a chat template to apply, else the text."""
    return [{"role": "user", "content": problem.prompt}] if policy.chat else problem.prompt
