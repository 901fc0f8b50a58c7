"""One bar for a part of a study, in iterations, so that it moves while runs are long; with rate and time left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from experiments.study.runner import WARMUP, is_done
from minicppo.cli.progress import Lines
from minicppo.files import reading
from minicppo.rl.config import RunConfig


class StudyProgress(Lines):
    """Takes (run, iterations done) and shows how far all of them are; away from a terminal, a line a finished run."""

    def __init__(self, console: Console, name: str, runs: Mapping[str, RunConfig], out: Path):
        super().__init__(console, wide=True)
        self.name, self.out = name, out
        self.lengths = {run: config.train.iterations for run, config in runs.items()}
        self.at = {run: length if is_done(out / run) else 0 for run, length in self.lengths.items()}
        self.note = self._finished()
        self._refresh()

    def report(self, run: str, iteration: int, accuracy: float = 0.0) -> None:
        """A run has come to the end of an iteration, or a warm-up that runs wait for to a step."""
        said = ""
        if run == WARMUP:
            self.note = f"{WARMUP}: step {iteration}, greedy accuracy {accuracy:.2f}"
            said = self.note if iteration % 250 == 0 else ""
        else:
            self.at[run] = iteration
            if iteration >= self.lengths[run] or self.note.startswith(WARMUP):
                self.note = self._finished()
            if iteration >= self.lengths[run]:
                self.note = said = f"{self.note}, {run}{self._accuracy(run)}"
        self._refresh()
        if said and not self.console.is_terminal:
            self.console.print(f"{self.name}: {said}")

    def _finished(self) -> str:
        return f"{sum(self.at[run] >= n for run, n in self.lengths.items())} of {len(self.lengths)} runs"

    def _refresh(self) -> None:
        self.show(self.name, sum(self.at.values()), sum(self.lengths.values()), self.note)

    def _accuracy(self, run: str) -> str:
        path = self.out / run / "summary.json"
        with reading(path):
            return f": accuracy {json.loads(path.read_text())['last']['accuracy']:.2f}" if path.is_file() else ""
