"""The terminal: one console for all commands, and how an error looks on it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def fail(error: Exception) -> NoReturn:
    """Say in one line (or one for each thing that is wrong) what went wrong, and leave with status 2."""
    text = str(error) if not isinstance(error, KeyError) else repr(error.args[0])
    for line in text.splitlines() or [type(error).__name__]:
        errors.print("[bold red]error:[/] ", end="")
        errors.print(line, markup=False, soft_wrap=True)
    raise SystemExit(2)


def stopped(hint: str) -> NoReturn:
    """After Ctrl-C: say how to go on, and leave with the status of an interrupted program."""
    errors.print(f"\nStopped. {hint}", markup=False, soft_wrap=True)
    raise typer.Exit(130)


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
    """What to type for `minicppo` here: it need not be on the path, as after `make demo`."""
    called, found = Path(sys.argv[0]), shutil.which("minicppo")
    if called.name != "minicppo" or (found and called.exists() and called.samefile(found)):
        return "minicppo"
    return shlex.quote(str(called))


def again(context: typer.Context) -> str:
    """The command that was typed, without --fresh, which would throw away what there is to go on from."""
    return f"{program()} {shlex.join(argument for argument in context.obj if argument != '--fresh')}"


def progress_bar() -> Progress:
    """Lines with a rate and the time left, on standard error, so that what is printed can go to a file."""
    from minicppo.cli.progress import progress_lines

    return progress_lines(errors)
