"""TRL's metrics as rows of a run directory: `minicppo compare` and `minicppo eval` read the run like any other."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minicppo.files import write_atomically
from minicppo.rl.config import RunConfig
from minicppo.rl.evaluate import evaluate
from minicppo.rl.policy import Policy
from minicppo.rl.run_dir import RunDir, peak_memory_mb
from minicppo.rl.tasks import Task
from minicppo.rl.trainer import OnEvent

DONE = "minicppo.json"  # the last file of a checkpoint
OURS = ("mask/", "gate/", "budget/", "div/", "prefix/", "ratio/", "kl/", "weight/", "accept/", "minpro/", "mismatch/")


def whole_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint that was written to its end; those that were not are removed."""
    found = None
    for folder in _saved(run):
        if (folder / DONE).is_file():
            found = folder
        else:
            shutil.rmtree(folder, ignore_errors=True)  # every process of a resumed run comes here
    return found


def _saved(run: RunDir) -> list[Path]:
    return sorted((run.path / "trl").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


class RunLog(TrainerCallback):
    """Writes metrics.jsonl and timings.jsonl, evaluates where due, and marks checkpoints as whole."""

    def __init__(self, run: RunDir, config: RunConfig, task: Task, policy: Policy, on_event: OnEvent | None):
        self.run, self.config, self.task, self.policy = run, config, task, policy
        self.on_event = on_event or (lambda event: None)
        self.updates = config.train.minibatches * config.train.epochs  # of an iteration
        self._clock: dict[str, float] = {}

    @contextmanager
    def open(self, checkpoint: Path | None) -> Iterator[None]:
        """Hold the run for this process, its logs cut back to where the checkpoint left them."""
        with self.run.locked():
            sizes = {"metrics.jsonl": 0, "timings.jsonl": 0}
            if checkpoint is not None:
                sizes = json.loads((checkpoint / DONE).read_text())
            self.run.truncate_logs(sizes)
            yield

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._evaluate(0, 0)
        self._restart()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "grad_norm" not in logs:  # the summary at the end
            return
        update, iteration = state.global_step, (state.global_step - 1) // self.updates
        if "reward" in logs:
            self._clock["rollout_s"] = logs["rollout_time"]
            self._clock["tokens"] = logs["completions/mean_length"] * self.config.rollout.prompts
            self._clock["tokens"] *= self.config.rollout.group_size
            self._log(
                kind="rollout",
                iteration=iteration,
                reward=logs["reward"],
                format_rate=logs["format_rate"],
                length=logs["completions/mean_length"],
                dropped_groups=round(logs["frac_reward_zero_std"] * self.config.rollout.prompts),
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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = self.run.path / "trl" / f"checkpoint-{state.global_step}"
        write_atomically(folder / DONE, json.dumps(self.run.log_sizes()).encode())
        for old in _saved(self.run)[
            : -self.config.train.keep_checkpoints
        ]:  # TRL would remove it before the new is whole
            shutil.rmtree(old)

    def _end_iteration(self, done: int, update: int) -> None:
        trained = time.perf_counter()
        total = self.config.train.iterations
        if done % self.config.eval.every == 0 or done == total:
            self._evaluate(done, update)
        rollout_s, tokens = self._clock["rollout_s"], self._clock["tokens"]
        spent = trained - self._clock["start"]
        row = {
            "kind": "iteration",
            "iteration": done,
            "rollout_s": rollout_s,
            "update_s": spent - rollout_s,
            "eval_s": time.perf_counter() - trained,
            "tokens_per_s": tokens / spent,
            "peak_memory_mb": peak_memory_mb(),
        }
        self.run.append("timings.jsonl", row)
        self.on_event(row)
        self._restart()

    def _restart(self) -> None:
        self._clock = {"start": time.perf_counter(), "rollout_s": 0.0, "tokens": 0.0}

    def _evaluate(self, iteration: int, update: int) -> None:
        model = self.policy.model
        training = model.training
        model.eval()  # in training mode, activation checkpointing would switch the key-value cache off
        row = evaluate(self.policy, self.task, self.config).as_row()
        model.train(training)
        self._log(kind="eval", iteration=iteration, update=update, **row)

    def _log(self, **row: Any) -> None:
        self.run.append("metrics.jsonl", row)
        self.on_event(row)
