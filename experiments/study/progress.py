"""One bar for a part of a study, in iterations, so that it moves while runs are long; with rate and time left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import TextColumn

from experiments.study.runner import WARMUP, is_done
from minicppo.cli.progress import progress_lines
from minicppo.rl.config import RunConfig


class StudyProgress:
    """Takes (run, iterations done) and shows how far all of them are; away from a terminal, a line a finished run."""

    def __init__(self, console: Console, name: str, runs: Mapping[str, RunConfig], out: Path):
        self.console, self.name, self.out = console, name, out
        self.lengths = {run: config.train.iterations for run, config in runs.items()}
        self.at = {run: length if is_done(out / run) else 0 for run, length in self.lengths.items()}
        self.progress = progress_lines(console, TextColumn("{task.percentage:.0f} %"), wide=True)
        self.bar = self.progress.add_task(name, total=sum(self.lengths.values()), note="")
        self._refresh("")

    def __enter__(self) -> StudyProgress:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    @property
    def finished(self) -> int:
        return sum(self.at[run] >= length for run, length in self.lengths.items())

    def report(self, run: str, iteration: int, accuracy: float = 0.0) -> None:
        """A run has come to the end of an iteration, or a warm-up that runs wait for to a step."""
        if run == WARMUP:
            note = f"{WARMUP}: step {iteration}, greedy accuracy {accuracy:.2f}"
            self.progress.update(self.bar, note=note)
            if iteration % 250 == 0 and not self.console.is_terminal:
                self.console.print(f"{self.name}: {note}")
            return
        self.at[run] = iteration
        ended = iteration >= self.lengths[run]
        self._refresh(run if ended else "")
        if ended and not self.console.is_terminal:
            self.console.print(f"{self.name}: {self.finished} of {len(self.lengths)} runs, {run}{self._accuracy(run)}")

    def _refresh(self, latest: str) -> None:
        self.progress.update(self.bar, completed=sum(self.at.values()))
        if latest or not self.progress.tasks[0].fields["note"]:
            note = f"{self.finished} of {len(self.lengths)} runs {latest}".strip()
            self.progress.update(self.bar, note=note)

    def _accuracy(self, run: str) -> str:
        path = self.out / run / "summary.json"
        return f": accuracy {json.loads(path.read_text())['last']['accuracy']:.2f}" if path.is_file() else ""
