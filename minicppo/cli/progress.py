"""A live line for each run: how far, how fast, how long still, and the last held-out accuracy."""

from collections.abc import Mapping
from typing import Any, Self

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

WARM_UP = "warm-up"


class RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where those are long."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.0f}/s" if speed >= 2 else f"{1 / speed:.1f} s each", style="cyan")


class Lines:
    """Progress lines by name, begun when first shown, live inside `with`: done/total, the rate, the time left, a note.

    Rates look back over minutes: a step may take one.
    """

    def __init__(self, console: Console, wide: bool = False):
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None if wide else 40),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}", style="green", markup=False),
            console=console,
            speed_estimate_period=300.0,
            expand=wide,
        )
        self._tasks: dict[str, Task] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, name: str, done: int, total: int | None, note: str = "", start: bool = True) -> None:
        """So much of it is done; what a new line begins with tells nothing of the rate."""
        if name not in self._tasks:
            self.progress.add_task(name, total=total, completed=done, start=start, note=note)
            self._tasks[name] = self.progress.tasks[-1]
        self.progress.update(self._tasks[name].id, completed=done, total=total, note=note)


class RunProgress(Lines):
    """Turns a trainer's events into progress lines; away from a terminal, into one printed line an evaluation."""

    def __init__(self, console: Console):
        super().__init__(console, wide=True)

    def add(self, name: str, iterations: int, done: int = 0) -> None:
        """A line for a run of so many iterations; its clock starts with its first event."""
        self.show(name, done, iterations, "waiting" if done < iterations else "done before", start=False)

    def handle(self, name: str, event: Mapping[str, Any]) -> None:
        """Take one event of the run `name`: a row of its logs, or a step of its warm-up."""
        warmup = self._tasks.get(WARM_UP)
        if event["kind"] == "warmup":
            note = f"at most {event['max_steps']}, greedy accuracy {100 * event['accuracy']:.0f} %"
            if warmup is None:
                self._print("warm-up: imitating imperfect demonstrations, once; later runs start from its result")
            if event["step"] % 250 == 0:
                self._print(f"warm-up: step {event['step']} of {note}")
            self.show(WARM_UP, event["step"], None, note)  # it ends when it is good enough: no time left is guessed
            return
        if warmup is not None and not warmup.finished:
            self.progress.update(warmup.id, total=warmup.completed, note="done")
        line = self._tasks[name]
        if not line.started:
            self.progress.start_task(line.id)
            self.progress.update(line.id, note="")
        if event["kind"] == "iteration":
            self.progress.update(line.id, completed=event["iteration"])
        elif event["kind"] == "eval":
            text = f"accuracy {100 * event['accuracy']:.0f} ± {100 * event['accuracy_se']:.0f} %"
            self.progress.update(line.id, note=text)
            self._print(f"{name}: iteration {event['iteration']} of {line.total:.0f}, held-out {text}")

    def _print(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text)
