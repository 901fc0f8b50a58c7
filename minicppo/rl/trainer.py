"""The training loop: roll out, judge, update; evaluate and save now and then.

Left out on purpose: a KL penalty to a reference model, an entropy bonus, a value function, several processes. The paper
uses none of the first three, and what outgrows one device belongs on another engine.
"""

import copy
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from minicppo.rl.certificate import Judged, certificate_row
from minicppo.rl.checkpoint import TrainState, Weights, list_checkpoints, load_checkpoint, save_checkpoint
from minicppo.rl.config import RunConfig
from minicppo.rl.evaluate import evaluate, grade, held_out_problems
from minicppo.rl.log_probs import score
from minicppo.rl.policy import Policy, load_policy
from minicppo.rl.run_dir import RunDir, peak_memory_mb
from minicppo.rl.sampling import Keep, Rollout, sample
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Problem, sample_problems
from minicppo.rl.update import Minibatch, Updater
from minicppo.rl.warmup import initial_policy
from minicppo.rules import get_method, group_advantages

TRACE_ROWS = 256  # responses kept token by token, for a closer look
OnEvent = Callable[[Mapping[str, Any]], None]


def train(config: RunConfig, run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Train from the start and return the run's folder.

    `on_event` is called with every row of metrics.jsonl, with {"kind": "warmup", "step", "max_steps", "accuracy"} while
    a warm-up is trained, and with {"kind": "iteration", ...} (a row of timings.jsonl) after each iteration.

    Raises:
        FileExistsError: the folder already holds a run.
        FloatingPointError: a loss, gradient or log-prob is not finite.
        ValueError: the task has fewer held-out problems than the evaluation asks for.
    """
    RunDir(Path(run_dir)).require_vacant()
    held_out_problems(config.make_task(), config)
    start = starting_policy(config, on_event)  # before the folder is made: what fails here leaves nothing behind
    run = RunDir.create(run_dir, config)
    with run.locked():
        Trainer(run, start, on_event).run_to_end()
    return run.path


def resume(run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """Continue a run from its newest checkpoint as if it had never stopped: on a CPU, to the bit.

    Raises:
        FileNotFoundError: the folder holds no run.
        BlockingIOError: another process is writing it.
        ValueError: a log is shorter than it was at the checkpoint.
    """
    run = RunDir.open(run_dir)
    if run.finished:
        return run.path
    with run.locked():
        begun = list_checkpoints(run.checkpoints)
        start = trained_policy(run.path) if begun else starting_policy(run.config(), on_event)
        Trainer(run, start, on_event).run_to_end()
    return run.path


def train_or_resume(config: RunConfig, run_dir: str | Path, on_event: OnEvent | None = None) -> Path:
    """`train`, or `resume` where the folder already holds a run."""
    begun = (Path(run_dir) / "config.yaml").exists()
    return resume(run_dir, on_event) if begun else train(config, run_dir, on_event)


def starting_policy(config: RunConfig, on_event: OnEvent | None = None) -> Policy:
    """The policy that a run of this configuration starts from, warmed up if that is not cached."""

    def report(step: int, accuracy: float) -> None:
        if on_event is not None and config.warmup is not None:
            most = config.warmup.max_steps + config.warmup.anneal
            on_event({"kind": "warmup", "step": step, "max_steps": most, "accuracy": accuracy})

    return initial_policy(config, config.make_task(), report)


def trained_policy(run_dir: str | Path) -> Policy:
    """The policy of a run's newest checkpoint.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet.
    """
    run = RunDir.open(run_dir)
    saved = list_checkpoints(run.checkpoints)
    if not saved:
        raise FileNotFoundError(f"{run.path} has no checkpoint yet: resume the run until it has one")
    return load_policy(saved[-1] / "policy", chat=run.config().model.chat)


@dataclass(frozen=True)
class Drawn:
    """Sampled and graded: N = prompts x group_size responses, rows prompt by prompt; rewards (N,)."""

    problems: list[Problem]
    rollout: Rollout
    rewards: Tensor
    format_rate: float


@dataclass(frozen=True)
class Batch(Drawn):
    """What one iteration learns from.

    Attributes:
        advantages: (N,), zero in dropped groups. kept: (G,) indices of the groups whose rewards vary.
    """

    advantages: Tensor
    kept: Tensor


class Trainer:
    """One run in progress."""

    def __init__(self, run: RunDir, start: Policy, on_event: OnEvent | None = None):
        self.run, self.config = run, run.config()
        self.on_event = on_event or (lambda event: None)
        torch.set_num_threads(self.config.threads)
        self.task = self.config.make_task()
        settings = self.config.train
        self.method = get_method(self.config.method.name, **self.config.method.params)
        if (
            self.method.params.get("length") == "padded"
        ):  # to the longest response allowed, whatever this minibatch holds
            params = {**self.config.method.params, "length": self.config.max_new_tokens(self.task)}
            self.method = get_method(self.config.method.name, **params)
        self.keep = cast(Keep, {"log_probs": "none"}.get(self.method.needs, self.method.needs))
        self.state = self._initial_state(start)
        model = self.state.policy.model  # what samples: the same weights, or a second model where rollouts are stale
        model = copy.deepcopy(model) if settings.staleness else model
        self.behaviour = dataclasses.replace(self.state.policy, model=model, autocast=self.config.rollout_dtype())
        sizes = {"metrics.jsonl": 0, "timings.jsonl": 0}
        saved = list_checkpoints(run.checkpoints)
        if saved:
            sizes = load_checkpoint(saved[-1], self.state)
        elif settings.staleness:
            self.state.history.append(_weights(self.state.policy))
        run.truncate_logs(sizes)
        minibatch = self.config.prompts_per_update * self.config.rollout.group_size
        self.rows_per_forward = min(settings.micro_batch or minibatch, minibatch)
        self.updater = Updater(self.config, self.method, self.keep, self.task, self.state)

    def run_to_end(self) -> None:
        """Every iteration that is left. One iteration: roll out, make the updates, evaluate and save where due."""
        settings, state = self.config.train, self.state
        if state.iteration == 0:
            self.evaluate()
        while state.iteration < settings.iterations:
            due = (state.iteration + 1) % self.config.eval.every == 0 or state.iteration + 1 == settings.iterations
            before = time.perf_counter()
            fresh = self.draw("certificate") if due else None  # from the policy that samples the batch, not trained on
            clock = [time.perf_counter()]
            spent = clock[0] - before
            batch = self.roll_out()
            clock.append(time.perf_counter())
            last: Minibatch | None = None
            for last in self.minibatches(batch):
                row = self.updater(last)
                self.log({"kind": "update", "iteration": state.iteration, "update": state.update, **row})
                self.remember()
            clock.append(time.perf_counter())
            state.iteration += 1
            if fresh is not None:
                self.evaluate()
                if last is not None:  # else every group was dropped, and there was no update
                    self.certify(fresh)
                    shown = batch.kept[: max(1, TRACE_ROWS // self.config.rollout.group_size)]
                    traced = self.minibatch(batch, shown)
                    self.updater.write_trace(self.run, traced, batch.problems, self.rows_per_forward)
            clock.append(time.perf_counter())
            self.log_timings(clock, int(batch.rollout.response_mask.sum()), extra_eval_s=spent)
            if state.iteration % settings.checkpoint_every == 0 or state.iteration == settings.iterations:
                save_checkpoint(self.run.checkpoints, state, self.run.log_sizes(), settings.keep_checkpoints)
        self.run.write_summary(self.config)

    def draw(self, purpose: str) -> "Drawn":
        """Sample and grade responses to training problems of one iteration; each purpose has problems of its own."""
        config, settings, iteration = self.config, self.config.rollout, self.state.iteration
        rng = rng_for(config.seed, f"{purpose}-problems", iteration)
        problems = sample_problems(self.task, settings.prompts, rng, "train")
        if self.state.history:
            _set_weights(self.behaviour, self.state.history[0])
        rollout = sample(
            self.behaviour,
            [self.behaviour.encode(problem.prompt) for problem in problems],
            config.max_new_tokens(self.task),
            settings.temperature,
            generator_for(config.seed, purpose, iteration),
            keep=self.keep,
            k=settings.cells,
            samples=settings.group_size,
            batch=settings.batch,
        )
        graded = grade(self.behaviour, self.task, problems, rollout)
        rewards = torch.tensor(graded.rewards, device=rollout.log_probs.device)
        return Drawn(problems, rollout, rewards, sum(graded.well_formed) / len(rollout))

    def roll_out(self) -> "Batch":
        """The responses that one iteration learns from, with their advantages."""
        drawn, group_size = self.draw("rollout"), self.config.rollout.group_size
        rollout = drawn.rollout
        judged = group_advantages(drawn.rewards, group_size, normalize_std=self.config.train.normalize_std)
        self.log(
            {
                "kind": "rollout",
                "iteration": self.state.iteration,
                "reward": float(drawn.rewards.mean()),
                "format_rate": drawn.format_rate,
                "length": float(rollout.response_mask.sum()) / len(rollout),
                "dropped_groups": judged.dropped_groups,
                "mismatch": self.mismatch(rollout),
            }
        )
        kept = judged.kept[::group_size].nonzero()[:, 0]
        return Batch(**vars(drawn), advantages=judged.advantages, kept=kept)

    @torch.no_grad()
    def mismatch(self, rollout: Rollout) -> float:
        """Mean |log pi - log mu| on the first minibatch for the very weights that sampled.

        It is what sampler and scorer disagree on, apart from the drift of later updates, which is wanted; a large
        value means a broken anchor.
        """
        rows = torch.arange(self.rows_per_forward, device=rollout.log_probs.device)
        part = rollout.select(rows)
        scorer = dataclasses.replace(self.behaviour, autocast=self.state.policy.autocast)
        again = score(scorer, part, self.config.rollout.temperature).log_probs
        return float((again - part.log_probs)[part.response_mask].abs().mean())

    def minibatches(self, batch: "Batch") -> Iterator[Minibatch]:
        """Whole groups in a fresh order each epoch, about prompts / minibatches of them at a time.

        Where groups were dropped there are fewer minibatches rather than smaller ones.
        """
        kept = batch.kept
        for epoch in range(self.config.train.epochs if len(kept) else 0):
            generator = generator_for(self.config.seed, f"shuffle-{epoch}", self.state.iteration)
            order = kept[torch.randperm(len(kept), generator=generator).to(kept.device)]
            for groups in order.tensor_split(math.ceil(len(kept) / self.config.prompts_per_update)):
                yield self.minibatch(batch, groups)

    def minibatch(self, batch: "Batch", groups: Tensor) -> Minibatch:
        """Some whole groups of a batch."""
        n = self.config.rollout.group_size
        rows = (groups[:, None] * n + torch.arange(n, device=groups.device)).flatten()
        return Minibatch(batch.rollout.select(rows), batch.advantages[rows], groups.tolist())

    def remember(self) -> None:
        """Keep the weights of the last `staleness` updates for the rollouts to come."""
        staleness = self.config.train.staleness
        if staleness:
            self.state.history.append(_weights(self.state.policy))
            while len(self.state.history) > staleness + 1:
                self.state.history.popleft()

    def evaluate(self) -> None:
        """Evaluate the current policy on held-out problems."""
        row = evaluate(self.state.policy, self.task, self.config).as_row()
        self.log({"kind": "eval", "iteration": self.state.iteration, "update": self.state.update, **row})

    def certify(self, fresh: "Drawn") -> None:
        """Log the certificate of the policy against the one that sampled, on responses not trained on.

        With stale rollouts it spans the updates since those weights, not this iteration's alone.
        """
        settings = self.config.rollout
        judged = Judged(fresh.rollout, fresh.rewards, settings.group_size)
        row = certificate_row(self.state.policy, judged, settings.temperature, self.keep, self.rows_per_forward)
        self.log({"kind": "certificate", "iteration": self.state.iteration, "update": self.state.update, **row})

    def log(self, row: dict[str, Any]) -> None:
        """One row of metrics.jsonl."""
        self.run.append("metrics.jsonl", row)
        self.on_event(row)

    def log_timings(self, clock: list[float], tokens: int, extra_eval_s: float) -> None:
        """One row of timings.jsonl, from the times at the start and after rollout, updates and evaluation."""
        rollout_s, update_s, eval_s = (after - before for before, after in zip(clock, clock[1:], strict=False))
        row = {
            "kind": "iteration",
            "iteration": self.state.iteration,
            "rollout_s": rollout_s,
            "update_s": update_s,
            "eval_s": eval_s + extra_eval_s,
            "tokens_per_s": tokens / (rollout_s + update_s),
            "peak_memory_mb": peak_memory_mb(),
        }
        self.run.append("timings.jsonl", row)
        self.on_event(row)

    def _initial_state(self, start: Policy) -> TrainState:
        config, settings = self.config, self.config.train
        start.model.to(config.resolved_device())
        policy = dataclasses.replace(start, autocast=config.autocast_dtype())
        optimizer = torch.optim.AdamW(
            policy.model.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        return TrainState(policy, optimizer, deque())


def _weights(policy: Policy) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}


@torch.no_grad()
def _set_weights(policy: Policy, weights: Weights) -> None:
    for name, parameter in policy.model.named_parameters():
        parameter.copy_(weights[name])
