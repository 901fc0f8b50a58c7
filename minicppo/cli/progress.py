"""A live line for each run: how far, how fast, how long still, and the last held-out accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where those are long."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.0f}/s" if speed >= 2 else f"{1 / speed:.1f} s each", style="cyan")


def progress_lines(console: Console, amount: ProgressColumn | None = None, wide: bool = False) -> Progress:
    """Lines with the amount done (as done/total, or by a column of your own), the rate, and the time left.

    Each line has a field `note`, shown at its end. Rates look back over minutes: a step may take one.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None if wide else 40),
        amount or MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[note]}", style="green"),
        console=console,
        speed_estimate_period=300.0,
        expand=wide,
    )


class RunProgress:
    """Turns a trainer's events into progress lines; away from a terminal, into one printed line an evaluation."""

    def __init__(self, console: Console):
        self.console = console
        self.progress = progress_lines(console, wide=True)
        self._lines: dict[str, Task] = {}
        self._warmup: Task | None = None

    def __enter__(self) -> RunProgress:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def add(self, name: str, iterations: int, done: int = 0) -> None:
        """A line for a run of so many iterations; its clock starts with its first event."""
        note = "waiting" if done < iterations else "done before"
        self._lines[name] = self._add(name, iterations, done, start=False, note=note)

    def handle(self, name: str, event: Mapping[str, Any]) -> None:
        """Take one event of the run `name`: a row of its logs, or a step of its warm-up."""
        if event["kind"] == "warmup":
            self._show_warm_up(event["step"], event["max_steps"], event["accuracy"])
            return
        self._end_warm_up()
        line = self._lines[name]
        if not line.started:
            self.progress.start_task(line.id)
            self.progress.update(line.id, note="")
        if event["kind"] == "iteration":
            self.progress.update(line.id, completed=event["iteration"])
        elif event["kind"] == "eval":
            text = f"accuracy {100 * event['accuracy']:.0f} ± {100 * event['accuracy_se']:.0f} %"
            self.progress.update(line.id, note=text)
            self._print(f"{name}: iteration {event['iteration']} of {line.total:.0f}, held-out {text}")

    def _show_warm_up(self, step: int, max_steps: int, accuracy: float) -> None:
        """Show the supervised warm-up; it has its own line, above or below those of the runs that wait for it."""
        if self._warmup is None:
            self._warmup = self._add("warm-up", None)  # it ends when it is good enough: no total, no time left
            self._print("warm-up: imitating imperfect demonstrations, once; later runs start from its result")
        note = f"greedy accuracy {100 * accuracy:.0f} %"
        self.progress.update(self._warmup.id, completed=step, note=f"at most {max_steps}, {note}")
        if step % 250 == 0:
            self._print(f"warm-up: step {step} of at most {max_steps}, {note}")

    def _end_warm_up(self) -> None:
        """The warm-up, if there was one, is done."""
        if self._warmup is not None and not self._warmup.finished:
            self.progress.update(self._warmup.id, total=self._warmup.completed, note="done")

    def _add(self, name: str, total: int | None, done: int = 0, start: bool = True, note: str = "") -> Task:
        line = self.progress.add_task(name, total=total, completed=done, start=start, note=note)
        return next(task for task in self.progress.tasks if task.id == line)

    def _print(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text)
