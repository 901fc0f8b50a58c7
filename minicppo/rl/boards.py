"""A run shown elsewhere while it goes on: TensorBoard, Weights & Biases, trackio, MLflow.

The run's own files stay the truth: a board that fails is left with one warning, and the run goes on.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file

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
TEXTS = 4  # responses shown
Floats = Mapping[str, float]
Histograms = Mapping[str, Sequence[float]]


class Board:
    """What a board is told, once an iteration; it takes what it can show.

    step: optimiser steps made so far. texts: responses; they and the histograms come with an evaluation, empty else.
    """

    def point(self, step: int, scalars: Floats, histograms: Histograms, texts: Sequence[str]) -> None: ...
    def close(self) -> None: ...


def load_board(name: str) -> Any:
    """The module of a board. Raises ModuleNotFoundError, saying how it is installed."""
    return optional(name, f"log={name}")


class Boards:
    """The boards that a run's `log` names, fed with the rows of its log and with each new trace."""

    def __init__(self, config: RunConfig, run: RunDir):
        self.run, self.step = run, 0
        self.open: dict[str, Board] = {}
        self.values: dict[str, list[float]] = {}  # since the last point of the curves
        for name in config.log:
            if name != "files":
                self._try(name, lambda name=name: self.open.update({name: MAKERS[name](config, run)}))

    def row(self, row: Mapping[str, Any]) -> None:
        """Take one row of the log. The last of an iteration ends a point of the curves, the mean over its rows."""
        if not self.open:
            return
        kind, self.step = row["kind"], row.get("update", self.step)
        for key, value in row.items():
            name = f"{kind}/{key.removeprefix(f'{kind}/')}"
            if isinstance(value, int | float):
                self.values.setdefault(NAMES.get(name, name), []).append(float(value))
        if kind == "iteration":
            scalars = {name: sum(values) / len(values) for name, values in self.values.items()}
            self.values.clear()
            self._each("point", self.step, scalars, *self._trace())

    def close(self) -> None:
        """Write what is still in memory."""
        self._each("close")

    def _trace(self) -> tuple[Histograms, Sequence[str]]:
        """Histograms and texts of this step's evaluation, if it has had one."""
        file = self.run.path / "trace.json"
        texts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if texts.get("update") != self.step:  # none yet, or of an earlier evaluation
            return {}, ()
        arrays = load_file(self.run.path / "trace.safetensors")
        mask = arrays["response_mask"].bool()
        gap = (arrays["log_probs"].exp() - arrays["rollout_log_probs"].exp()).abs()
        responses = zip(texts["prompts"], texts["tokens"], strict=True)
        shown = [printable(f"{prompt}\n{''.join(tokens)}") for prompt, tokens in responses][:TEXTS]
        shown.append("reasons: " + ", ".join(f"{reason.value} {reason.name.lower()}" for reason in Reason))
        divergence, reason = (values[mask].tolist() for values in (arrays.get("divergence", gap), arrays["reason"]))
        return {"trace/divergence": divergence, "trace/reason": reason}, shown

    def _each(self, call: str, *arguments: Any) -> None:
        for name, board in list(self.open.items()):
            self._try(name, getattr(board, call), *arguments)

    def _try(self, name: str, act: Callable[..., object], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:  # whatever it is, training goes on
            self.open.pop(name, None)
            warnings.warn(f"log={name} failed and is left out from now on: {error!r}", stacklevel=2)


class TensorBoard(Board):
    """Event files in RUN/tensorboard."""

    def __init__(self, config: RunConfig, run: RunDir):
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.path / "tensorboard"))
        self.close = self.writer.close  # type: ignore[method-assign]

    def point(self, step: int, scalars: Floats, histograms: Histograms, texts: Sequence[str]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        curves = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self.writer.file_writer.add_summary(Summary(value=curves), step)  # one event: `add_scalar` makes one a curve
        for name, values in histograms.items():
            self.writer.add_histogram(name, torch.tensor(values), step)
        if texts:
            self.writer.add_text("trace/responses", "\n\n".join(texts), step)


class Stream(Board):
    """Weights & Biases, in RUN/wandb, and trackio, which share their calls."""

    def __init__(self, name: str, config: RunConfig, run: RunDir, **options: Any):
        import pandas

        self.module, self.frame = load_board(name), pandas.DataFrame
        told = {"name": run.path.name, "config": config.model_dump(mode="json")}
        self.run = self.module.init(project="minicppo", **told, **options)

    def point(self, step: int, scalars: Floats, histograms: Histograms, texts: Sequence[str]) -> None:
        told: dict[str, Any] = {**scalars}
        told |= {name: self.module.Histogram(values) for name, values in histograms.items()}
        if texts:
            told["trace/responses"] = self.module.Table(dataframe=self.frame({"response": texts}))
        self.run.log(told, step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow(Board):
    """Metrics in RUN/mlflow.db and texts in RUN/mlruns, or where MLFLOW_TRACKING_URI says; it has no histograms."""

    def __init__(self, config: RunConfig, run: RunDir):
        self.mlflow, self.waiting = load_board("mlflow"), None
        own = f"sqlite:///{run.path.absolute() / 'mlflow.db'}"
        self.client = self.mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", own))
        known = self.client.get_experiment_by_name("minicppo")
        texts = None if "MLFLOW_TRACKING_URI" in os.environ else (run.path.absolute() / "mlruns").as_uri()
        experiment = known.experiment_id if known else self.client.create_experiment("minicppo", texts)
        self.id = self.client.create_run(experiment, run_name=run.path.name).info.run_id
        self.client.log_text(self.id, config.to_yaml(), "config.yaml")

    def point(self, step: int, scalars: Floats, histograms: Histograms, texts: Sequence[str]) -> None:
        now = int(time.time() * 1000)
        metrics = [self.mlflow.entities.Metric(name, value, now, step) for name, value in scalars.items()]
        self.waiting = self.client.log_batch(self.id, metrics, synchronous=False)
        if texts:
            self.client.log_text(self.id, "\n\n".join(texts), f"trace/responses-{step}.txt")

    def close(self) -> None:
        if self.waiting is not None:  # batches are written in their order: after the last one all are
            self.waiting.wait()
        self.client.set_terminated(self.id)


MAKERS: dict[str, Callable[[RunConfig, RunDir], Board]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda config, run: Stream("wandb", config, run, dir=str(run.path), reinit="create_new"),
    "trackio": lambda config, run: Stream("trackio", config, run),
    "mlflow": MLflow,
}
