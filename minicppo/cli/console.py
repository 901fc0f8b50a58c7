"""The terminal: one console for all commands, and how an error looks on it."""

from __future__ import annotations

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
    errors.print(f"\nStopped. {hint}", markup=False)
    raise typer.Exit(130)


def progress_bar() -> Progress:
    """Lines with a rate and the time left, on standard error, so that what is printed can go to a file."""
    from minicppo.report.progress import progress_lines

    return progress_lines(errors)
