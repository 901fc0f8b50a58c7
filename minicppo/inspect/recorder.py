"""A log in the neutral format from engines that write none: what their losses see, sampled, as Parquet.

    Recorder("logs/run").attach(trainer)  # any GRPOTrainer, ours too, before train()

It never stops a run: what cannot be written is said once, and no more is recorded.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import TrainerCallback

from minicppo.files import atomically
from minicppo.rules import TokenBatch
from minicppo.text import optional

SHARE = 0.0025  # of a run's time, as far as it is counted: waiting for the other thread, for example, is not
COLUMNS = ("response_ids", "rollout_log_probs", "log_probs", "old_log_probs", "advantages")  # one a token
WHOLE = {"response_ids": torch.int32, "step": torch.int64, "group": torch.int64}  # all others are real numbers
_say = logging.getLogger(__name__).warning


class Recorder(TrainerCallback):
    """Writes FOLDER/step_N-rank_R.parquet of optimiser steps, up to `rows` responses a process.

    every: one step in so many is recorded. None: the next one as soon as the last has cost under SHARE of the time.
    rows: None for all of them. A comparison with what the trainer itself logs needs every=1 and rows=None.
    """

    def __init__(self, folder: str | Path, every: int | None = None, rows: int | None = 64):
        if any(number is not None and number < 1 for number in (every, rows)):
            raise ValueError(f"every={every} and rows={rows} must be 1 or more, or None")
        self.folder, self.every, self.rows = Path(folder), every, rows
        self.failed, self.calls, self.cost = False, 0, 0.0
        self._guard(_first_time)  # now, so that no step pays for it
        self.cost, self.ready = 0.0, -math.inf  # of the step now recorded, and when the next one may be, in seconds
        self._decided = -1, False  # a step, and whether it is due: one answer for all of its micro-batches
        self._held: list[dict[str, Tensor]] = []  # of each micro-batch, one value a response or, end to end, a token
        self._writing: threading.Thread | None = None

    def attach(self, trainer: Any) -> "Recorder":
        """Listen to the loss of TRL's `GRPOTrainer`, or of one that is made from it."""
        loss, score = trainer._compute_loss, trainer._get_per_token_logps_and_entropies
        scored: list[Tensor] = []

        def scoring(*args: Any, **kwargs: Any) -> Any:
            result = score(*args, **kwargs)
            scored[:] = [result[0]] if result[0] is not None else []  # the last before the loss is the loss's own
            return result

        def losing(model: Any, inputs: dict[str, Any]) -> Any:
            result = loss(model, inputs)
            if model.training and scored and self.due(trainer.state.global_step):
                self._guard(lambda: self.take(trainer.state.global_step, **of_trl(inputs, scored[0])))
            return result

        trainer._compute_loss, trainer._get_per_token_logps_and_entropies = losing, scoring
        trainer.add_callback(self)
        return self

    def due(self, step: int) -> bool:
        if step != self._decided[0]:
            self._decided = step, (step % self.every == 0 if self.every else time.monotonic() >= self.ready)
        return self._decided[1] and not self.failed

    def take(self, step: int, mask: Tensor, advantages: Tensor, **columns: Tensor | None) -> None:
        """Keep responses of a micro-batch: (B, T) mask and columns, advantages (B, T) or (B,), rewards, group (B,)."""
        held = sum(len(each["tokens"]) for each in self._held)
        left = len(mask) if self.rows is None else min(self.rows - held, len(mask))
        if left <= 0:
            return
        valid, kept = mask[:left].bool().cpu(), dict[str, Tensor]()
        spread = (advantages if advantages.ndim == 2 else advantages[:, None]).expand(mask.shape)
        for name, value in {"advantages": spread, **columns}.items():
            if value is not None:
                part = value[:left].detach().cpu()
                kept[name] = part[valid] if name in COLUMNS else part
        self._held.append({**kept, "tokens": valid.sum(1), "step": torch.full((left,), step)})

    def micro_batch(self, batch: TokenBatch) -> None:
        """For losses that know neither tokens nor steps, such as verl's: each call counts as a step."""
        step, self.calls = self.calls, self.calls + 1
        if self.due(step):
            columns = {name: getattr(batch, name) for name in ("rollout_log_probs", "log_probs", "old_log_probs")}
            self._guard(lambda: self.take(step, batch.mask, batch.advantages, **columns))
            self.flush()

    def flush(self) -> None:
        """Write what is held as one file, whole or not at all, while the run goes on."""
        held, self._held = self._held, []
        if held:
            self.close()
            self.ready = math.inf  # until it is written
            self._writing = threading.Thread(target=self._written, args=(held,))
            self._writing.start()

    def close(self) -> None:
        """Wait until everything is written."""
        if self._writing is not None:
            self._writing.join()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def _written(self, held: list[dict[str, Tensor]]) -> None:
        self._guard(lambda: self._write(held))
        self.ready, self.cost = time.monotonic() + self.cost / SHARE, 0.0

    def _write(self, held: list[dict[str, Tensor]]) -> None:
        import pyarrow
        from pyarrow import parquet

        joined = {name: torch.cat([each[name] for each in held]) for name in held[0]}
        ends, table = functional.pad(joined.pop("tokens").cumsum(0), (1, 0)).int().numpy(), {}
        for name, values in joined.items():
            column = pyarrow.array(values.to(WHOLE.get(name, torch.float32)).numpy())
            table[name] = pyarrow.ListArray.from_arrays(ends, column) if name in COLUMNS else column
        path = self.folder / f"step_{int(joined['step'][0]):08d}-rank_{os.environ.get('RANK', '0')}.parquet"
        with atomically(path, shared=True) as scratch:
            parquet.write_table(pyarrow.table(table), scratch, compression="zstd")

    def _guard(self, action: Callable[[], object]) -> None:
        start = time.thread_time()
        try:
            action()
            self.cost += time.thread_time() - start
        except Exception as error:
            if not self.failed:
                _say("nothing more is recorded in %s: %s: %s", self.folder, type(error).__name__, error)
            self.failed, self._held = True, []


def _first_time() -> None:
    """Import what writes Parquet, and write nothing with it: the first time takes a tenth of a second."""
    pyarrow = optional("pyarrow", "a recorder", "inspect")
    parquet = optional("pyarrow.parquet", "a recorder", "inspect")
    nothing = pyarrow.table({"nothing": pyarrow.ListArray.from_arrays([0, 0], pyarrow.array([0.0]))})
    parquet.write_table(nothing, pyarrow.BufferOutputStream(), compression="zstd")


def of_trl(inputs: dict[str, Any], log_probs: Tensor) -> dict[str, Any]:
    """What TRL's loss was given, by our names. Where nothing tells mu from pi_old, mu is pi_old; or pi, while fresh."""
    sampled, old = inputs.get("sampling_per_token_logps"), inputs.get("old_per_token_logps")
    mask = inputs["completion_mask"]
    return {
        "mask": mask if inputs.get("tool_mask") is None else mask * inputs["tool_mask"],
        "response_ids": inputs["completion_ids"],
        "rollout_log_probs": sampled if sampled is not None else old if old is not None else log_probs,
        "log_probs": log_probs,
        "old_log_probs": old if sampled is not None else None,
        "advantages": inputs["advantages"],
        "rewards": inputs.get("rewards"),
        "group": inputs.get("group"),
    }
