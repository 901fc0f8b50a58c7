"""A run shown elsewhere while it goes on: TensorBoard, Weights & Biases, trackio, MLflow.

The run's own files stay the truth: a board that fails is left with one warning, and the run goes on.
"""

import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from minicppo.rl.config import RunConfig
from minicppo.rl.run_dir import RunDir
from minicppo.rules import Reason
from minicppo.text import optional, printable

# our metrics under the names of TRL's curves, where they mean the same; any other is KIND/NAME, as in eval/accuracy
NAMES = {
    "rollout/reward": "reward",
    "rollout/length": "completions/mean_length",
    "update/loss": "loss",
    "update/grad_norm": "grad_norm",
    "update/lr": "learning_rate",
    "update/entropy": "entropy",
    "update/kl/k3": "kl",
    "update/mask/frac": "clip_ratio/region_mean",
}
MODULES = {name: name for name in ("tensorboard", "wandb", "trackio", "mlflow")}
TEXTS = 4  # responses shown


class Board(Protocol):
    """What a board is told. step: optimiser steps made so far."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...
    def histogram(self, name: str, values: Sequence[float], step: int) -> None: ...
    def texts(self, name: str, rows: Sequence[str], step: int) -> None: ...
    def close(self) -> None: ...


def require_boards(config: RunConfig) -> None:
    """Raises ModuleNotFoundError: a board that `log` names is not installed."""
    for name in config.log:
        if name != "files":
            load_board(name)


def load_board(name: str) -> Any:
    """The module of a board."""
    return optional(MODULES[name], f"log={name}", "watch")


class Boards:
    """The boards of a run, fed with the rows of its log, and with each new trace."""

    def __init__(self, config: RunConfig, run: RunDir):
        self.run, self.step = run, 0
        self.open: dict[str, Board] = {}
        for name in config.log:
            if name != "files":
                self._try(name, lambda name=name: self.open.update({name: MAKERS[name](config, run)}))

    def row(self, row: Mapping[str, Any]) -> None:
        """Show one row of the log; after a certificate, which comes with a trace, that too."""
        if not self.open:
            return
        self.step = row.get("update", self.step)
        kind = row["kind"]
        named = ((f"{kind}/{key.removeprefix(f'{kind}/')}", value) for key, value in row.items())
        values = {NAMES.get(key, key): float(value) for key, value in named if isinstance(value, int | float)}
        self._each(lambda board: board.scalars(values, self.step))
        if row["kind"] == "iteration" and (self.run.path / "trace.json").is_file():
            self._trace()

    def close(self) -> None:
        """Write what is still in memory."""
        self._each(lambda board: board.close())

    def _trace(self) -> None:
        from safetensors.torch import load_file

        texts = json.loads((self.run.path / "trace.json").read_text(encoding="utf-8"))
        if texts.get("update") != self.step:  # of an earlier evaluation
            return
        arrays = load_file(self.run.path / "trace.safetensors")
        mask = arrays["response_mask"].bool()
        gap = (arrays["log_probs"].exp() - arrays["rollout_log_probs"].exp()).abs()
        histograms = {"divergence": arrays.get("divergence", gap)[mask], "reason": arrays["reason"][mask]}
        responses = zip(texts["prompts"], texts["tokens"], strict=True)
        shown = [printable(f"{prompt}\n{''.join(tokens)}") for prompt, tokens in responses][:TEXTS]
        for name, values in histograms.items():
            self._each(lambda board, n=name, v=values: board.histogram(f"trace/{n}", v.tolist(), self.step))
        names = ", ".join(f"{reason.value} {reason.name.lower()}" for reason in Reason)
        self._each(lambda board: board.texts("trace/responses", [*shown, f"reasons: {names}"], self.step))

    def _each(self, tell: Any) -> None:
        for name, board in list(self.open.items()):
            self._try(name, lambda board=board: tell(board))

    def _try(self, name: str, act: Any) -> None:
        try:
            act()
        except Exception as error:  # whatever it is, training goes on
            self.open.pop(name, None)
            warnings.warn(f"log={name} failed and is left out from now on: {error!r}", stacklevel=2)


class _TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, config: RunConfig, run: RunDir):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.path / "tensorboard"))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        import torch

        self.writer.add_histogram(name, torch.tensor(values), step)

    def texts(self, name: str, rows: Sequence[str], step: int) -> None:
        self.writer.add_text(name, "\n\n".join(rows), step)

    def close(self) -> None:
        self.writer.close()


class _Stream:
    """Weights & Biases and trackio, which share their calls: one step's values are joined, as steps only go up."""

    def __init__(self, module: Any, config: RunConfig, **options: Any):
        self.module = module
        self.run = module.init(project="minicppo", config=config.model_dump(mode="json"), **options)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        if hasattr(self.module, "Histogram"):
            self.run.log({name: self.module.Histogram(values)}, step=step)

    def texts(self, name: str, rows: Sequence[str], step: int) -> None:
        import pandas

        self.run.log({name: self.module.Table(dataframe=pandas.DataFrame({"response": rows}))}, step=step)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    """Metrics and texts of a run in RUN/mlflow.db, or where MLFLOW_TRACKING_URI says; it has no histograms."""

    def __init__(self, config: RunConfig, run: RunDir):
        self.mlflow, self.waiting = load_board("mlflow"), None
        own = f"sqlite:///{run.path.absolute() / 'mlflow.db'}"
        self.client = self.mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", own))
        experiment = self.client.get_experiment_by_name("minicppo")
        found = experiment.experiment_id if experiment else self.client.create_experiment("minicppo")
        self.id = self.client.create_run(found, run_name=run.path.name).info.run_id
        self.client.log_text(self.id, config.to_yaml(), "config.yaml")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self.mlflow.entities.Metric(name, value, now, step) for name, value in values.items()]
        self.waiting = self.client.log_batch(self.id, metrics, synchronous=False)

    def histogram(self, name: str, values: Sequence[float], step: int) -> None:
        pass

    def texts(self, name: str, rows: Sequence[str], step: int) -> None:
        self.client.log_text(self.id, "\n\n".join(rows), f"{name}-{step}.txt")

    def close(self) -> None:
        if self.waiting is not None:  # they are written in their order, so the last is the end
            self.waiting.wait()
        self.client.set_terminated(self.id)


def _wandb(config: RunConfig, run: RunDir) -> _Stream:
    return _Stream(load_board("wandb"), config, name=run.path.name, dir=str(run.path), reinit="create_new")


def _trackio(config: RunConfig, run: RunDir) -> _Stream:
    return _Stream(load_board("trackio"), config, name=run.path.name)


MAKERS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _wandb, "trackio": _trackio, "mlflow": _MLflow}
