"""What a run leaves behind, and where.

config.yaml         every setting
metrics.jsonl       one row per evaluation, rollout and update; deterministic, byte for byte
timings.jsonl       one row per iteration: seconds, tokens per second, peak memory; everything that is not deterministic
checkpoints/000040/ the state after 40 iterations, see `minicppo.rl.checkpoint`
trace.safetensors   per-token tensors of the last evaluated batch after its updates, trace.json its texts
summary.json        first and last evaluation, masked share, time and memory; written at the end
"""

import json
import math
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from minicppo.files import Damaged, atomically, locked, open_in_place, reading, write_atomically
from minicppo.rl.config import ConfigError, RunConfig, load_config
from minicppo.rl.settings_file import flat, read_settings
from minicppo.text import short

LOGS = ("metrics.jsonl", "timings.jsonl")
SHOWN = 12  # runs named in an error


class Row(dict[str, Any]):
    """One line of a log: a kind, and numbers by name. What it lacks is an error with the file's name."""

    def __init__(self, line: str, path: Path):
        super().__init__(json.loads(line))
        self.path = path
        if not isinstance(self["kind"], str):
            raise ValueError(f"kind = {self['kind']!r} is no text")
        for name, value in self.items():
            if name != "kind" and not isinstance(value, int | float | None):
                raise ValueError(f"{name!r} is no number")

    def __missing__(self, key: str) -> Any:
        kind = f" of kind {self['kind']!r}" if "kind" in self else ""
        raise Damaged(f"{self.path} has a row{kind} without {key!r}. Way out: remove the row, or the run")


@dataclass(frozen=True)
class RunDir:
    path: Path

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> "RunDir":
        """A new folder with its config.yaml. Raises FileExistsError: it already holds a run."""
        run = cls(Path(path))
        run.require_vacant(config)
        run.path.mkdir(parents=True, exist_ok=True)
        write_atomically(run.path / "config.yaml", config.to_yaml().encode())
        return run

    def require_vacant(self, config: RunConfig) -> None:
        """Raises FileExistsError where the folder already holds a run, with what differs from this one."""
        path = self.path / "config.yaml"
        if not path.exists():
            return
        asked, there = dict(flat(config.model_dump(mode="json"))), dict(flat(read_settings(path)))
        differing = [
            f"{key} = {short(there.get(key))} there, {short(asked.get(key))} here"
            for key in {**asked, **there}
            if asked.get(key) != there.get(key)
        ]
        if not differing:
            raise FileExistsError(
                f"{path.parent} already holds a run: minicppo resume {path.parent}, remove it, or give this run "
                "another folder (--run-dir)"
            )
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise FileExistsError(
            f"{path.parent} already holds another run ({'; '.join(differing[:SHOWN])}{more}): give this one a folder "
            f"of its own (--run-dir); minicppo resume {path.parent} would go on with that one"
        )

    @classmethod
    def open(cls, path: str | Path) -> "RunDir":
        """An existing run. Raises FileNotFoundError: there is none in this folder."""
        run = cls(Path(path))
        if not (run.path / "config.yaml").is_file():
            folder = run.path if any(run.path.glob("*/config.yaml")) else run.path.parent
            there = sorted(config.parent.name for config in folder.glob("*/config.yaml"))
            others = f"; in {folder} there are {', '.join(there[:SHOWN])}" if there else ""
            more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
            raise FileNotFoundError(f"{run.path} holds no run: it has no config.yaml{others}{more}")
        return run

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for this process alone; BlockingIOError where another one does."""
        return locked(self.path, "process: wait for it, or stop it and resume")

    def config(self) -> RunConfig:
        path = self.path / "config.yaml"
        try:
            return load_config(path)
        except ConfigError as error:
            lines = str(error).splitlines()
            raise ConfigError("\n".join(line if str(path) in line else f"{path}: {line}" for line in lines)) from None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").is_file()

    def append(self, log: str, row: Mapping[str, Any]) -> None:
        """Add one row to `log`, one of `LOGS`."""
        with open_in_place(self.path / log, "a") as file:
            numbers = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            file.write(json.dumps(numbers) + "\n")  # JSON has no NaN: a mean over nothing is null

    def rows(self, log: str = "metrics.jsonl", kind: str | None = None) -> list[dict[str, Any]]:
        """The rows of a log, of one kind if given; without a last line that is still being written, or was cut off."""
        path, rows = self.path / log, []
        with reading(path):
            lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        for number, line in enumerate(lines, 1):
            with reading(path, f"mend or remove its line {number}, or the run"):
                rows.append(Row(line, path))
        return [row for row in rows if kind is None or row["kind"] == kind]

    def log_sizes(self) -> dict[str, int]:
        """Bytes of each log now, forced to disk: what a checkpoint remembers."""
        sizes = {}
        for log in LOGS:
            with open_in_place(self.path / log, "a") as file:
                os.fsync(file.fileno())
                sizes[log] = file.tell()
        return sizes

    def truncate_logs(self, sizes: Mapping[str, int]) -> None:
        """Cut each log back to a remembered size, so that the rows after it can be written again.

        Raises ValueError: a log is shorter than remembered, so it cannot continue.
        """
        for log in LOGS:
            path = self.path / log
            with open_in_place(path, "a") as file:
                if file.tell() < sizes[log]:
                    raise ValueError(f"{path} has {file.tell()} bytes, fewer than the {sizes[log]} at the checkpoint")
                file.truncate(sizes[log])

    def write_trace(self, tensors: Mapping[str, Tensor], texts: Mapping[str, Any]) -> None:
        """Per-token tensors and texts of some responses."""
        with atomically(self.path / "trace.safetensors") as scratch:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, scratch)
        write_atomically(self.path / "trace.json", json.dumps(dict(texts), indent=1).encode())

    def write_summary(self, config: RunConfig) -> None:
        """Condense the logs into summary.json."""
        evaluations, updates = self.rows(kind="eval"), self.rows(kind="update")
        timings = self.rows("timings.jsonl")
        summary = {
            "name": config.name,
            "method": config.method.name,
            "seed": config.seed,
            "iterations": config.train.iterations,
            "updates": len(updates),
            "first": evaluations[0],
            "last": evaluations[-1],
            "masked_share": _mean(row.get("mask/frac") for row in updates),
            "masked_by_token_only": _mean(row.get("mask/token_only") for row in updates),
            "masked_by_prefix_only": _mean(row.get("mask/prefix_only") for row in updates),
            "masked_by_both": _mean(row.get("mask/both") for row in updates),
            "seconds": sum(row["rollout_s"] + row["update_s"] + row["eval_s"] for row in timings),
            "peak_memory_mb": max((row["peak_memory_mb"] for row in timings), default=0.0),
        }
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=1).encode())


class Stopwatch:
    """Seconds by name: each lap adds the time since the last to one of them."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last  # type: ignore[assignment]
        self.last = now


def peak_memory_mb() -> float:
    """The process's largest resident memory so far, or the GPU's where one is in use."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
