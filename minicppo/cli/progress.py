"""A live line for each run: how far, how fast, how long still, and the last held-out accuracy."""

import threading
import time
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
EVERY = 15.0  # seconds of silence, at most, away from a terminal


class RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where those are long."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.0f}/s" if speed >= 2 else f"{1 / speed:.1f} s each", style="cyan")


def no_contrast(reward: float, before: float = 0.0) -> str:
    """Why no group of an iteration taught anything, from its mean reward and the best before it, and what to change."""
    cause = (
        f"Every reward was 0, after {before:.2f} on average at best: the policy has collapsed"
        if reward == 0 < before
        else "Every reward was 0: the task is too hard for this policy, or it had no warm-up (warmup={})"
        if reward == 0
        else "Every reward was 1: the task is too easy for this policy"
        if reward == 1
        else "In every group all responses had the same reward: raise rollout.group_size or rollout.temperature"
    )
    return f"{cause}. Groups of equal rewards have no advantage, so they are dropped"


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
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:  # else nothing was shown, and no empty line is
            self.progress.stop()

    def show(self, name: str, done: int, total: int | None, note: str = "", start: bool = True) -> None:
        """So much of it is done; what a new line begins with tells nothing of the rate."""
        self.progress.start()
        if name not in self._tasks:
            self.progress.add_task(name, total=total, completed=done, start=start, note=note)
            self._tasks[name] = self.progress.tasks[-1]
        self.progress.update(self._tasks[name].id, completed=done, total=total, note=note)


class RunProgress(Lines):
    """Turns a trainer's events into progress lines.

    Away from a terminal: into one printed line an evaluation, and one where nothing was printed for `EVERY` seconds.
    """

    def __init__(self, console: Console):
        super().__init__(console, wide=True)
        self._rewards: dict[str, list[float]] = {}  # of each run, the mean of every rollout
        self._updated: set[str] = set()  # runs with an update since their newest rollout
        self._told: set[str] = set()  # runs of which it was said that an iteration made none
        self._printed, self._end = time.monotonic(), threading.Event()

    def __enter__(self) -> Self:
        if not self.console.is_terminal:
            threading.Thread(target=self._keep_printing, daemon=True).start()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        super().__exit__(*_)

    def _keep_printing(self) -> None:
        while not self._end.wait(1):
            running = [line for line in self._tasks.values() if line.started and not line.finished]
            if running and time.monotonic() > self._printed + EVERY:
                line = running[-1]
                rate = RateColumn().render(line).plain
                left = f", about {line.time_remaining / 60:.1f} min left" if line.time_remaining else ""
                of = f" of {line.total:.0f}" if line.total else ""
                self._print(f"{line.description}: {line.completed:.0f}{of}{rate and f', {rate}'}{left}")

    def add(self, name: str, iterations: int, done: int = 0) -> None:
        """A line for a run of so many iterations; its clock starts with its first event."""
        self.show(name, done, iterations, "waiting" if done < iterations else "done before", start=False)
        self._rewards[name] = [0.0]  # before any

    def handle(self, name: str, event: Mapping[str, Any]) -> None:
        """Take one event of the run `name`: a row of its logs, its start, or a step of its warm-up."""
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
        if event["kind"] == "rollout":
            self._rewards[name].append(event["reward"])
            self._updated.discard(name)
        elif event["kind"] == "update":
            self._updated.add(name)
        elif event["kind"] == "iteration":
            self.progress.update(line.id, completed=event["iteration"])
            if name not in self._updated | self._told:
                *before, reward = self._rewards[name]
                self._told.add(name)
                why = no_contrast(reward, max(before, default=0.0))
                self.console.print(f"{name}: iteration {event['iteration']} made no update. {why}")
        elif event["kind"] == "eval":
            text = f"accuracy {100 * event['accuracy']:.0f} ± {100 * event['accuracy_se']:.0f} %"
            self.progress.update(line.id, note=text)
            self._print(f"{name}: iteration {event['iteration']} of {line.total:.0f}, held-out {text}")

    def _print(self, text: str) -> None:
        if not self.console.is_terminal:
            self._printed = time.monotonic()
            self.console.print(text)
