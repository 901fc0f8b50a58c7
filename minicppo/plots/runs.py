"""Reading a run directory into arrays for figures and tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from minicppo.files import reading
from minicppo.rl.run_dir import RunDir
from minicppo.rl.settings_file import read_settings
from minicppo.rules import Reason, get_method

PER_RESPONSE = ("advantages", "delta_b")  # one number each, not one a token


class Trace:
    """The last batch token by token, as one more update would see it: arrays (rows, tokens), and texts.

    `gap` is |pi - mu| of the sampled tokens, the Binary TV, comparable between all methods; where the run recorded
    pi_old, `parts` are its "mismatch" |pi_old - mu| and its "drift" |pi - pi_old|. Where the method has none,
    `divergence` is `gap`, `position_weight` 1 and `threshold` None.
    """

    def __init__(self, folder: Path):
        """Raises ValueError: a file is damaged, or not of the other's responses."""
        with reading(folder / "trace.safetensors"):
            arrays = load_file(folder / "trace.safetensors")
            self.response_mask = arrays["response_mask"].astype(bool)
            self.log_probs, self.rollout_log_probs = arrays["log_probs"], arrays["rollout_log_probs"]
            self.old_log_probs: np.ndarray | None = arrays.get("old_log_probs")
            self.gap = np.abs(np.exp(self.log_probs) - np.exp(self.rollout_log_probs))
            self.parts: dict[str, np.ndarray] = {}
            if (old := self.old_log_probs) is not None:
                ends = {"mismatch": self.rollout_log_probs, "drift": self.log_probs}
                self.parts = {name: np.abs(np.exp(end) - np.exp(old)) for name, end in ends.items()}
            A = arrays["advantages"]
            self.advantages = A if A.ndim == 2 else np.broadcast_to(A[:, None], self.gap.shape)
            self.divergence = arrays.get("divergence", self.gap)
            self.position_weight = arrays.get("position_weight", np.ones_like(self.gap))
            self.reason = arrays["reason"]
            self.threshold: np.ndarray | None = arrays.get("threshold")
            if {array.shape for name, array in arrays.items() if name not in PER_RESPONSE} != {self.gap.shape}:
                raise ValueError("its arrays differ in shape")
        with reading(folder / "trace.json"):
            texts = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
            self.tokens: list[list[str]] = texts["tokens"]
            self.prompts: list[str] = texts["prompts"]
            if [len(tokens) for tokens in self.tokens] != self.response_mask.sum(1).tolist():
                raise ValueError("its tokens are not those of trace.safetensors")
            if [type(prompt) for prompt in self.prompts] != [str] * len(self.tokens):
                raise ValueError("its prompts are not one text for each response")

    @property
    def masks_something(self) -> bool:
        """Whether any token is masked."""
        return bool((self.reason >= Reason.TOKEN).any())


@dataclass(frozen=True)
class Run:
    """What `minicppo train` left behind."""

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    timings: list[dict[str, Any]]

    @property
    def method(self) -> str:
        return str(self.config["method"]["name"])

    @cached_property
    def params(self) -> dict[str, Any]:
        """The method's hyper-parameters with its defaults filled in."""
        return dict(get_method(self.method, **self.config["method"].get("params", {})).params)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.metrics if row["kind"] == kind]

    def series(self, kind: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """The values of one metric and the iteration of each, as fractions where an iteration has several updates."""
        rows = [row for row in self.rows(kind) if row.get(key) is not None]
        iterations = np.array([row["iteration"] for row in rows], dtype=float)
        if kind == "update":
            for i in np.unique(iterations):
                same = iterations == i
                iterations[same] += np.arange(same.sum()) / same.sum()
        return iterations, np.array([row[key] for row in rows], dtype=float)

    @cached_property
    def trace(self) -> Trace | None:
        """The tokens of the last traced update; None if the run kept none."""
        return Trace(self.path) if (self.path / "trace.safetensors").exists() else None


def load_run(path: Path) -> Run:
    """Read a run directory, finished or still going.

    Raises FileNotFoundError: no such run, or nothing logged yet; ValueError: a file is damaged.
    """
    folder = RunDir.open(path)
    metrics = folder.rows()
    if not metrics:
        raise FileNotFoundError(f"{path} has logged nothing yet: wait for its first evaluation, or resume it")
    # Read as plain data: a run made on a GPU, or by an older configuration, can still be looked at here.
    with reading(path / "config.yaml"):
        config = read_settings(path / "config.yaml")
        run = Run(path, config, metrics, folder.rows("timings.jsonl"))
        if not isinstance(run.params, dict):
            raise ValueError("no settings of a run")
    return run


def labels(runs: Sequence[Run]) -> list[str]:
    """The method's name, with the directory's where several runs share a method."""
    methods = [run.method for run in runs]
    return [m if methods.count(m) == 1 else f"{m} ({run.path.name})" for m, run in zip(methods, runs, strict=True)]
