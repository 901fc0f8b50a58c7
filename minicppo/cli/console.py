"""The terminal: one console and one kind of table for all commands, and how an error looks."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from minicppo.text import printable

if TYPE_CHECKING:
    from minicppo.plots.results import Result


class Terminal(Console):
    """A console on which texts are texts: square brackets are no markup, and control characters are shown, not sent."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **{"crop": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


console, errors = Terminal(), Terminal(stderr=True)


def say(*lines: object) -> None:
    """Print lines unbroken."""
    for line in lines:
        console.print(str(line), soft_wrap=True)


LONGEST_WORD = 40  # characters; a longer one, such as a path, is broken


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None, words: int = 99) -> Table:
    """Rows under heads: the first `words` columns stand left, the others are numbers, close together.

    No word is broken: where the terminal is too narrow for the longest ones, lines are longer than it.
    """
    close = words < len(heads)
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=close)
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    columns = zip(heads, *cells, strict=True)
    parts = ["\n".join(column).split(None if i < words else "\n") for i, column in enumerate(columns)]
    widths = [min(LONGEST_WORD, max(map(len, ["-", *found]))) for found in parts]
    for i, (head, width) in enumerate(zip(heads, widths, strict=True)):
        shown.add_column(
            head, justify="left" if i < words else "right", no_wrap=i >= words, overflow="fold", min_width=width
        )
    for row in cells:
        shown.add_row(*map(Text, row))
    if (least := sum(widths) + (2 if close else 3) * len(widths)) > console.width:
        shown.width = least
    return shown


def results_table(runs: Iterable[Result]) -> Table:
    """Accuracy before and after training with standard errors, and what the mask did."""
    from minicppo.plots.results import result_rows

    heads, *rows = result_rows(runs, short=True)
    shown = table(heads, rows, words=1)
    shown.caption, shown.caption_justify = "after: the mean of the evaluations in the last two fifths of a run", "left"
    return shown


def fail(error: Exception) -> NoReturn:
    """Say in one line (or one for each thing that is wrong) what went wrong, and leave with status 2."""
    text = str(error) if not isinstance(error, KeyError) else repr(error.args[0])
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text = f"{text}: make room; what was saved is whole, and minicppo resume RUN goes on from there"
    for line in text.splitlines() or [type(error).__name__]:
        errors.print("error: ", style="bold red", end="")
        errors.print(line, soft_wrap=True)
    raise SystemExit(2)


def stopped(hint: str) -> NoReturn:
    """After Ctrl-C: say how to go on, and leave with the status of an interrupted program."""
    errors.print(f"\nStopped. {hint}", soft_wrap=True)
    raise SystemExit(130)


def stopped_runs(runs: Iterable[Path], go_on: str) -> NoReturn:
    """The same, for runs: from where each of them goes on, and the command for it."""
    from minicppo.rl.checkpoint import list_checkpoints
    from minicppo.rl.run_dir import RunDir

    begun = [RunDir(run) for run in runs if (run / "config.yaml").is_file()]
    if not begun:
        stopped("No run had begun, so nothing is lost but a warm-up: type the same command again.")
    saved = {run.path.name: list_checkpoints(run.checkpoints) for run in begun if not run.finished}
    at = [f"{name} at iteration {int(folders[-1].name) if folders else 0}" for name, folders in saved.items()]
    every = begun[0].config().train.checkpoint_every
    where = f"On from the last checkpoints (one each {every} iterations), {', '.join(at)}" if at else "To end it"
    stopped(f"{where}: {go_on}")


def program() -> str:
    """What to type here for the command that runs: its script, or `python -m`, need not be on the path."""
    called, found = Path(sys.argv[0]), shutil.which("minicppo")
    if called.name == "__main__.py":
        python, below = sys.executable, os.path.relpath(sys.executable)
        short = python if below.startswith(os.pardir) else below
        known = shutil.which("python") == python
        return f"{'python' if known else shlex.quote(short)} -m {called.absolute().parent.name}"
    if called.name != "minicppo" or (found and called.exists() and called.samefile(found)):
        return "minicppo"
    return shlex.quote(str(called))


def again(context: typer.Context) -> str:
    """The command that was typed, without --fresh, which would throw away what there is to go on from."""
    return f"{program()} {shlex.join(argument for argument in context.obj if argument != '--fresh')}"
