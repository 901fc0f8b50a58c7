"""The training loop, `learn`: roll out, update with each minibatch; evaluate and save now and then.

Left out on purpose: a KL penalty to a reference model, an entropy bonus and a value function, which the paper does not
use, and several processes: what outgrows one device belongs on another engine.
"""

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from minicppo.bounds.certificate import certify
from minicppo.rl.boards import Boards, load_board
from minicppo.rl.checkpoint import TrainState, list_checkpoints, load_checkpoint, save_checkpoint, way_out
from minicppo.rl.config import RunConfig
from minicppo.rl.evaluate import evaluate, held_out_problems
from minicppo.rl.grading.confined import take_faults
from minicppo.rl.log_probs import require_agreement, response_log_probs
from minicppo.rl.policy import Policy, build_policy, load_policy
from minicppo.rl.rollout import Needs, Rollout, grade
from minicppo.rl.run_dir import LOGS, RunDir, Stopwatch, peak_memory_mb
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Task, sample_problems
from minicppo.rl.update import TRACE_ROWS, update, write_trace
from minicppo.rl.warmup import initial_policy
from minicppo.rules import Method, group_advantages, token_divergence

OnEvent = Callable[[Mapping[str, Any]], None]


def learn(
    config: RunConfig, task: Task, method: Method, state: TrainState, log: OnEvent, run: RunDir | None = None
) -> None:
    """Every iteration that is left. `log` is given each row; `run` is where traces and checkpoints go, if anywhere."""
    settings = config.train

    def log_row(kind: str, **row: Any) -> None:
        log({"kind": kind, "iteration": state.iteration, **row})

    if state.iteration == 0:
        log_row("eval", update=state.update, **evaluate(state.policy, task, config).as_row())
    while state.iteration < settings.iterations:
        last = state.iteration + 1 == settings.iterations
        due = last or (state.iteration + 1) % config.eval.every == 0
        watch, done = Stopwatch(), state.update
        sampler, unseen = state.sampling_policy(), None
        if due:  # the certificate is for responses of the same sampler that are not trained on
            unseen = roll_out(sampler, task, config, state.iteration, method.needs, "certificate")
        watch.lap("eval_s")
        rollout = roll_out(sampler, task, config, state.iteration, method.needs)
        log_row("rollout", **rollout_row(state, rollout, config))
        if config.recomputes_old:
            rollout = with_old_log_probs(state.policy, rollout, config)
        watch.lap("rollout_s")
        for minibatch in minibatches(rollout, config, state.iteration):
            row = update(state, method, minibatch, config)
            log_row("update", update=state.update, **row)
        watch.lap("update_s")
        state.iteration += 1
        if due:
            log_row("eval", update=state.update, **evaluate(state.policy, task, config).as_row())
        if unseen is not None and state.update > done:  # else every group was dropped
            log_row("certificate", update=state.update, **certificate_row(state.policy, unseen, config))
            if run is not None:
                shown = kept_groups(rollout, config)[: max(1, TRACE_ROWS // config.rollout.group_size)]
                write_trace(run, state, method, whole_groups(rollout, shown, config), config)
        watch.lap("eval_s")
        speed = int(rollout.response_mask.sum()) / (watch.seconds["rollout_s"] + watch.seconds["update_s"])
        log_row("iteration", **watch.seconds, tokens_per_s=speed, peak_memory_mb=peak_memory_mb())
        if run is not None and (last or state.iteration % settings.checkpoint_every == 0):
            save_checkpoint(run.checkpoints, state, run.log_sizes(), settings.keep_checkpoints)


def roll_out(
    policy: Policy, task: Task, config: RunConfig, iteration: int, needs: str, purpose: str = "rollout"
) -> Rollout:
    """Sample, grade and compare: prompts x group_size responses, prompt by prompt.

    Each purpose has training problems and random numbers of its own.
    """
    settings, seed = config.rollout, config.seed
    problems = sample_problems(task, settings.prompts, rng_for(seed, f"{purpose}-problems", iteration), "train")
    rollout = sample(
        policy,
        [policy.encode(problem.prompt) for problem in problems],
        config.max_new_tokens(task),
        settings.temperature,
        generator_for(seed, purpose, iteration),
        needs=cast(Needs, needs),
        k=settings.top_log_probs,
        samples=settings.group_size,
        batch=settings.batch,
    )
    rollout = grade(policy, task, problems, rollout)
    judged = group_advantages(rollout.rewards.float(), settings.group_size, normalize_std=config.train.normalize_std)
    return dataclasses.replace(rollout, advantages=judged.advantages)


@torch.no_grad()
def with_old_log_probs(policy: Policy, rollout: Rollout, config: RunConfig) -> Rollout:
    """The rollout with what the policy says of it now: pi_old, when asked before the first update."""
    parts = rollout.split(config.rows_per_forward)
    found = [response_log_probs(policy, part, config.rollout.temperature).log_probs for part in parts]
    return dataclasses.replace(rollout, old_log_probs=torch.cat(found))


def minibatches(rollout: Rollout, config: RunConfig, iteration: int) -> Iterator[Rollout]:
    """Whole groups in a fresh order each epoch, about prompts / minibatches of them at a time.

    Where groups were dropped (`train.drop_groups`) there are fewer minibatches rather than smaller ones.
    """
    kept = kept_groups(rollout, config)
    for epoch in range(config.train.epochs if len(kept) else 0):
        generator = generator_for(config.seed, f"shuffle-{epoch}", iteration)
        order = kept[torch.randperm(len(kept), generator=generator).to(kept.device)]
        for groups in order.tensor_split(math.ceil(len(kept) / config.prompts_per_update)):
            yield whole_groups(rollout, groups, config)


def contrast(rollout: Rollout, config: RunConfig) -> Tensor:
    """(groups,) bool: do the rewards of a group vary? If not it teaches nothing."""
    return rollout.advantages.view(-1, config.rollout.group_size).any(1)


def kept_groups(rollout: Rollout, config: RunConfig) -> Tensor:
    """Indices of the groups that are trained on: those with contrast, or all."""
    return (contrast(rollout, config) | (not config.train.drop_groups)).nonzero()[:, 0]


def whole_groups(rollout: Rollout, groups: Tensor, config: RunConfig) -> Rollout:
    """All rows of some groups, without the columns that are padding in all of them."""
    n = config.rollout.group_size
    return rollout.rows((groups[:, None] * n + torch.arange(n, device=groups.device)).flatten()).trim()


@torch.no_grad()
def rollout_row(state: TrainState, rollout: Rollout, config: RunConfig) -> dict[str, float]:
    """What the log says of a rollout.

    mismatch: mean |log pi - log mu| on the first prompt's responses for the very weights that sampled. It is what
    sampler and scorer disagree on, apart from the drift of later updates, which is wanted; a large value means a broken
    anchor.
    """
    scorer = dataclasses.replace(state.sampler, autocast=state.policy.autocast)
    part = next(rollout.split(min(config.rollout.group_size, config.rows_per_forward))).trim()
    again = response_log_probs(scorer, part, config.rollout.temperature).log_probs
    require_agreement(scorer, state.sampler, part, config.rollout.temperature, again)
    return {
        "reward": float(rollout.rewards.float().mean()),
        "format_rate": int(rollout.well_formed.sum()) / len(rollout),
        "length": float(rollout.response_mask.sum()) / len(rollout),
        "dropped_groups": config.rollout.prompts - int(contrast(rollout, config).sum()),
        "mismatch": float((again - part.log_probs)[part.response_mask].abs().mean()),
        **take_faults(),
    }


@torch.no_grad()
def certificate_row(policy: Policy, rollout: Rollout, config: RunConfig) -> dict[str, float]:
    """The certificate of improvement (`minicppo.bounds.certificate`) of the policy now against the one that sampled.

    With stale rollouts that spans the updates since those weights, not one iteration's alone. Every response counts,
    also those of groups that the loss would drop. The divergence is the exact TV where the rollout carries whole
    distributions; Binary and Top-K lie below it and would void the bound, so without them the ratios alone are used.
    """
    log_probs, divergences = [], []
    needs: Needs = "full" if rollout.needs == "full" else "log_probs"
    for part in rollout.split(config.rows_per_forward):
        found = response_log_probs(policy, part, config.rollout.temperature, needs)
        log_probs.append(found.log_probs)
        if found.top_log_probs is not None:
            divergences.append(token_divergence(part.token_batch(found.log_probs, found.top_log_probs), "exact_tv"))
    inputs = torch.cat(log_probs), rollout.log_probs, rollout.rewards.float(), rollout.response_mask
    pi, mu, rewards, mask = (x.cpu().numpy() for x in inputs)
    groups = np.arange(len(rollout)) // config.rollout.group_size
    return certify(pi, mu, rewards, mask, groups, torch.cat(divergences).cpu().numpy() if divergences else None).rows()


def rehearse(config: RunConfig) -> tuple[float, float]:
    """Seconds that a run would take and MB that it would hold: one iteration from the policy before any warm-up."""
    torch.set_num_threads(config.threads)
    task, start = config.make_task(), build_policy(config.model, config.make_task(), config.seed)
    state, method, watch = TrainState.begin(config, start), config.make_method(), Stopwatch()
    rollout = roll_out(state.policy, task, config, 0, method.needs)
    watch.lap("rollout_s")
    advantages = torch.arange(len(rollout), device=rollout.rewards.device) % 2 - 0.5  # as if every group had contrast
    for minibatch in minibatches(dataclasses.replace(rollout, advantages=advantages), config, 0):
        update(state, method, minibatch, config)
    watch.lap("update_s")
    answers = config.eval.problems * (config.eval.samples + 1)
    evaluations = 1 + math.ceil(config.train.iterations / config.eval.every)
    evaluation = watch.seconds["rollout_s"] * (answers / len(rollout) + 1)  # and the certificate's rollout
    seconds = config.train.iterations * sum(watch.seconds.values()) + evaluations * evaluation
    return seconds, peak_memory_mb()


def train(config: RunConfig, run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Train from the start and return the run's folder.

    `on_event` is called with every row of metrics.jsonl, with {"kind": "warmup", "step", "max_steps", "accuracy"} while
    a warm-up is trained, {"kind": "start"} after it, and {"kind": "iteration", ...} (a row of timings.jsonl) after each
    iteration.

    Raises FileExistsError where the folder already holds a run, ValueError where the task has fewer held-out problems
    than the evaluation asks for, and FloatingPointError where a loss, gradient or log-prob is not finite.
    """
    RunDir(Path(run_dir)).require_vacant(config)
    held_out_problems(config.make_task(), config)
    for name in set(config.log) - {"files"}:
        load_board(name)  # what is missing shows now
    start = starting_policy(config, on_event)  # before the folder is made: what fails here leaves nothing behind
    return _to_the_end(RunDir.create(run_dir, config), start, on_event)


def resume(run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Continue a run from its newest checkpoint as if it had never stopped: on a CPU, to the bit.

    Raises FileNotFoundError where the folder holds no run, BlockingIOError where another process is writing it, and
    ValueError where the checkpoint is damaged, a file is a link, or a log is shorter than it was at the checkpoint.
    """
    run = RunDir.open(run_dir)
    return run.path if run.finished else _to_the_end(run, None, on_event)


def train_or_resume(config: RunConfig, run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """`train`, or `resume` where the folder already holds a run."""
    begun = (Path(run_dir) / "config.yaml").exists()
    return resume(run_dir, on_event) if begun else train(config, run_dir, on_event)


def _to_the_end(run: RunDir, start: Policy | None, on_event: OnEvent | None) -> Path:
    """`learn` from the newest checkpoint, or from the start, with every row in the run's logs."""
    with run.locked():
        config, saved = run.config(), list_checkpoints(run.checkpoints)
        torch.set_num_threads(config.threads)
        start = trained_policy(run.path) if saved else start or starting_policy(config, on_event)
        state = TrainState.begin(config, start)
        run.truncate_logs(load_checkpoint(saved[-1], state) if saved else dict.fromkeys(LOGS, 0))
        for old in saved[: -config.train.keep_checkpoints]:  # a process that was killed had no time to remove them
            shutil.rmtree(old)
        tell = on_event or (lambda event: None)

        def log(row: Mapping[str, Any]) -> None:
            run.append("timings.jsonl" if row["kind"] == "iteration" else "metrics.jsonl", row)
            boards.row(row)
            tell(row)

        with closing(Boards(config, run)) as boards:
            tell({"kind": "start"})
            learn(config, config.make_task(), config.make_method(), state, log, run)
        run.write_summary(config)
    return run.path


def starting_policy(config: RunConfig, on_event: OnEvent | None = None) -> Policy:
    """The policy that a run of this configuration starts from, warmed up if that is not cached."""

    def report(step: int, accuracy: float) -> None:
        if on_event is not None and config.warmup is not None:
            most = config.warmup.max_steps + config.warmup.anneal
            on_event({"kind": "warmup", "step": step, "max_steps": most, "accuracy": accuracy})

    return initial_policy(config, config.make_task(), report)


def trained_policy(run_dir: str | Path) -> Policy:
    """The policy of a run's newest checkpoint; FileNotFoundError where there is no run, or no checkpoint yet."""
    run = RunDir.open(run_dir)
    saved = list_checkpoints(run.checkpoints)
    if not saved:
        raise FileNotFoundError(f"{run.path} has no checkpoint yet: resume the run until it has one")
    return load_policy(saved[-1] / "policy", run.config().model.chat, way_out(saved[-1]))
