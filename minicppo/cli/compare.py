"""`minicppo compare`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import console, results_table, say, table
from minicppo.cli.options import Plugins, load


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="One or more run directories.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A new folder. [default: runs/compare, then runs/compare-2 ...]")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Put runs side by side: a table here, figures and the full table as files, in a folder of their own.

    Also says in which settings the runs differ. Runs of different tasks are kept apart, as their accuracies cannot be
    compared. Works while the runs are still going. Differences within two standard errors, or from one seed, settle
    nothing.

    Example: `minicppo compare runs/stale-cppo-exact runs/stale-grpo --out runs/cppo-and-grpo`
    """
    from minicppo.plots.report import write_report
    from minicppo.plots.results import results, setting_rows
    from minicppo.plots.runs import Run, load_run

    load(plugins)
    loaded = [load_run(path) for path in runs]
    folder = _vacant(out)
    by_task: dict[str, list[Run]] = {}
    for run in loaded:
        by_task.setdefault(json.dumps(run.config.get("task")), []).append(run)
    for i, (task, group) in enumerate(by_task.items(), 1):
        if len(by_task) > 1:
            say(f"Task {i} of {len(by_task)}, {task}:")
        console.print(results_table(results(group)))
    if len(loaded) > 1:
        say("± is the error of the held-out problems: differences within two, or from one seed, settle nothing")
    heads, *rows = setting_rows(loaded)
    if rows:
        console.print(table(heads, rows, "Settings that differ"))
    for i, group in enumerate(by_task.values(), 1):
        say(*write_report(group, folder / f"task-{i}" if len(by_task) > 1 else folder))


def _vacant(out: Path | None) -> Path:
    """The folder asked for, or the first of runs/compare, runs/compare-2 ... that holds nothing yet."""
    if out is None:
        names = (Path("runs") / f"compare{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
        return next(folder for folder in names if not folder.exists())
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} already holds something: name another folder, or remove it first")
    return out
