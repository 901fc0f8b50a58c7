"""Our configurations on TRL: the same policy, problems, reward, updates and run directory as the local trainer's.

With `train.drop_groups=false` and one process it is the same run, until rounding tips the draw of a token. What differs
else: groups whose rewards are all equal stay (their advantages are zero); processes but the first draw other random
numbers, and each deals out its own groups; `entropy` is TRL's mean over micro-batches. No certificate and no trace are
written.
"""

import dataclasses
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from minicppo.engines.refusals import require_carried
from minicppo.engines.trl_checkpoint import DONE, log_sizes, saved_checkpoints, whole_checkpoint
from minicppo.engines.trl_config import CPPOConfig
from minicppo.engines.trl_settings import trl_settings
from minicppo.engines.trl_trainer import CPPOTrainer
from minicppo.files import reading, write_atomically
from minicppo.rl.checkpoint import way_out
from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rl.evaluate import evaluate, held_out_problems
from minicppo.rl.grading.confined import take_faults
from minicppo.rl.policy import Policy, load_policy, save_policy
from minicppo.rl.run_dir import RunDir, peak_memory_mb
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import judged, sample_problems
from minicppo.rl.trainer import OnEvent, starting_policy
from minicppo.rules import group_advantages
from minicppo.rules.rows import join, take
from minicppo.text import nearest

OURS = tuple("mask/ gate/ budget/ div/ prefix/ ratio/ kl/ weight/ accept/ minpro/ mismatch/ faults/".split())


def train(config: RunConfig, run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Train with TRL and return the run's folder, laid out as by `minicppo.rl.trainer.train`.

    Under torchrun every process calls this; the first writes the run.
    Raises FileExistsError where the folder already holds a run, ValueError for a setting that TRL cannot carry out.
    """
    run = RunDir(Path(run_dir))
    trl_config(config, run.path)  # before any work
    if is_main():
        run.require_vacant(config)
        held_out_problems(config.make_task(), config)
    start = starting_policy(config, on_event)
    if is_main():
        RunDir.create(run_dir, config)
    with run.locked() if is_main() else nullcontext():
        return _run_to_end(run, config, start, on_event, None)


def resume(run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Continue a run from its newest checkpoint as if it had never stopped: on a CPU, to the bit.

    Raises FileNotFoundError where the folder holds no run, BlockingIOError where another process is writing it, and
    ValueError where the newest checkpoint is damaged.
    """
    run = RunDir.open(run_dir)
    if run.finished:
        return run.path
    config = run.config()
    with run.locked() if is_main() else nullcontext():  # before anything is touched
        checkpoint = whole_checkpoint(run, remove=is_main())
        start = starting_policy(config, on_event) if checkpoint is None else load_policy(checkpoint, config.model.chat)
        return _run_to_end(run, config, start, on_event, checkpoint)


def trl_config(config: RunConfig, run_dir: Path) -> CPPOConfig:
    """The configuration as TRL's. Raises ValueError for what TRL cannot carry out, with the way out."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    require_carried(config.model_copy(update={"engine": "trl"}), processes)
    for override in config.cluster.overrides:
        key, known = override.partition("=")[0], list(CPPOConfig.__dataclass_fields__)
        if key not in known:
            raise ConfigError(f"cluster.overrides: TRL has no setting {key!r}{nearest(key, known)}")
    with quiet():
        return CPPOConfig(**trl_settings(config, run_dir, processes))


def _run_to_end(
    run: RunDir, config: RunConfig, start: Policy, on_event: OnEvent | None, checkpoint: Path | None
) -> Path:
    torch.set_num_threads(config.threads)
    task, settings = config.make_task(), config.train
    policy = dataclasses.replace(start, autocast=config.autocast_dtype())
    problems = []  # those that the local trainer samples from, iteration by iteration
    for iteration in range(settings.iterations):
        rng = rng_for(config.seed, "rollout-problems", iteration)
        problems += sample_problems(task, config.rollout.prompts, rng, "train")
    prompts: list[Any] = [problem.prompt for problem in problems]
    if policy.chat:  # a template to apply, which TRL does to conversations
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    model = policy.model.to(config.resolved_device())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / max(settings.lr_warmup, 1)))
    log = RunLog(run, config, policy, on_event)
    log.on_event({"kind": "start"})

    def reward(completion_ids: list[list[int]], index: list[int], log_metric: Any, **_: Any) -> list[float]:
        asked = [(problems[i], policy.decode(ids)) for i, ids in zip(index, completion_ids, strict=True)]
        verdicts = [judged(task, *each) for each in asked]
        log_metric("format_rate", sum(well_formed for _, well_formed in verdicts) / len(asked))
        for fault, count in take_faults().items():
            log_metric(fault, count)
        return [score for score, _ in verdicts]

    trainer = RunTrainer(
        policy.model,
        args=trl_config(config, run.path),
        reward_funcs=reward,
        processing_class=policy.tokenizer,
        train_dataset=Dataset.from_list([{"prompt": prompt, "index": i} for i, prompt in enumerate(prompts)]),
        optimizers=(optimizer, warm),
        callbacks=[log] if is_main() else [],
    )
    trainer.remove_callback(PrinterCallback)
    if settings.drop_groups:
        trainer.accelerator.print(
            f"groups of equal rewards are kept: {trainer.args.max_steps} updates; --engine local leaves them out and "
            "makes fewer, unless train.drop_groups=false"
        )
    if is_main():
        run.truncate_logs(log_sizes(checkpoint))
    with quiet():
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


class RunTrainer(CPPOTrainer):
    """`CPPOTrainer` with the local trainer's random numbers, advantages, minibatches and denominators."""

    def _generator(self, purpose: str = "rollout") -> torch.Generator:
        iteration = self._step // (self.args.steps_per_generation * self.num_iterations)
        process = self.accelerator.process_index if purpose == "rollout" else 0
        return generator_for(self.args.seed, f"{purpose}/{process}" if process else purpose, iteration)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        rewards, normalize_std = self._rewards.sum(1), self.args.scale_rewards == "group"
        advantages = group_advantages(rewards, self.num_generations, normalize_std=normalize_std).advantages
        output["advantages"] = advantages.chunk(self.accelerator.num_processes)[self.accelerator.process_index]
        return output

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """At the start of an epoch over a rollout, minibatches of whole groups: TRL deals out single responses."""
        inputs, args = super()._prepare_inputs(generation_batch), self.args
        if self._mode == "eval" or self._step % args.steps_per_generation:
            return inputs
        dealt = self._buffered_inputs or []
        whole = join([{k: v for k, v in part.items() if k != "num_items_in_batch"} for part in dealt])
        epoch = self._step // args.steps_per_generation % self.num_iterations
        groups = args.generation_batch_size // self.num_generations
        place = torch.randperm(groups, generator=self._generator(f"shuffle-{epoch}")).argsort()
        order = place[whole["group"].cpu()].argsort(stable=True).to(whole["group"].device)
        parts = [take(whole, rows) for rows in order.split(args.per_device_train_batch_size)]
        tokens = torch.stack([part["completion_mask"].sum() for part in parts])
        tokens = self.accelerator.reduce(tokens.view(-1, args.gradient_accumulation_steps).sum(1))  # of each minibatch
        for i, part in enumerate(parts):  # TRL divides this by the number of minibatches
            part["num_items_in_batch"] = tokens[i // args.gradient_accumulation_steps] * len(tokens)
        self._buffered_inputs = parts
        return parts[0]


class RunLog(TrainerCallback):
    """TRL's metrics as rows of a run directory like any other; evaluates where due, and marks checkpoints as whole."""

    def __init__(self, run: RunDir, config: RunConfig, policy: Policy, on_event: OnEvent | None):
        self.run, self.config, self.task, self.policy = run, config, config.make_task(), policy
        self.on_event = on_event or (lambda event: None)
        self.updates = config.train.minibatches * config.train.epochs  # of an iteration
        self._start = self._rollout_s = self._tokens = 0.0  # of the current iteration

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for parameter, moments in kwargs["optimizer"].state.items():  # the fused step would write out of bounds
            if any(moments[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                file = self.run.path / "trl" / f"checkpoint-{state.global_step}" / "optimizer.pt"
                with reading(file, way_out(file.parent)):
                    raise ValueError(f"moments of another shape than their parameter's, {tuple(parameter.shape)}")
        if state.global_step == 0:
            self._evaluate(0, 0)
        self._start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        if "grad_norm" not in logs:  # the summary at the end
            return
        update, iteration, rollout = state.global_step, (state.global_step - 1) // self.updates, self.config.rollout
        if "reward" in logs:
            self._rollout_s = logs["rollout_time"]
            self._tokens = logs["completions/mean_length"] * rollout.prompts * rollout.group_size
            self._log(
                kind="rollout",
                iteration=iteration,
                reward=logs["reward"],
                format_rate=logs["format_rate"],
                length=logs["completions/mean_length"],
                dropped_groups=round(logs["frac_reward_zero_std"] * rollout.prompts),
                mismatch=logs["mismatch/drift"],
            )
        self._log(
            kind="update",
            iteration=iteration,
            update=update,
            loss=logs["loss"],
            grad_norm=logs["grad_norm"],
            lr=logs["learning_rate"],
            entropy=logs["entropy"],
            drift=logs.get("drift", logs.get("mismatch/drift")),
            **{key: value for key, value in logs.items() if key.startswith(OURS)},
        )
        if update % self.updates == 0:
            self._end_iteration(iteration + 1, update)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = self.run.path / "trl" / f"checkpoint-{state.global_step}"
        write_atomically(folder / DONE, json.dumps(self.run.log_sizes()).encode())
        for old in saved_checkpoints(self.run)[: -self.config.train.keep_checkpoints]:
            shutil.rmtree(old)  # TRL would remove it before the new is whole

    def _end_iteration(self, done: int, update: int) -> None:
        trained = time.perf_counter()
        if done % self.config.eval.every == 0 or done == self.config.train.iterations:
            self._evaluate(done, update)
        spent = trained - self._start
        self._log(
            kind="iteration",
            iteration=done,
            rollout_s=self._rollout_s,
            update_s=spent - self._rollout_s,
            eval_s=time.perf_counter() - trained,
            tokens_per_s=self._tokens / spent,
            peak_memory_mb=peak_memory_mb(),
        )
        self._start = time.perf_counter()

    def _evaluate(self, iteration: int, update: int) -> None:
        model = self.policy.model
        training = model.training
        model.eval()  # in training mode, activation checkpointing would switch the key-value cache off
        row = evaluate(self.policy, self.task, self.config).as_row()
        model.train(training)
        self._log(kind="eval", iteration=iteration, update=update, **row)

    def _log(self, **row: Any) -> None:
        self.run.append("timings.jsonl" if row["kind"] == "iteration" else "metrics.jsonl", row)
        self.on_event(row)
