"""`minicppo compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import console


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="One or more run directories.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where figures and table go.")] = Path("runs/compare"),
) -> None:
    """Put runs side by side: a table here, figures and the full table as files.

    Also says in which settings the runs differ. Works while the runs are still going. Differences within two standard
    errors, or from one seed, settle nothing.

    Example: `minicppo compare runs/stale-cppo-exact runs/stale-grpo --out runs/cppo-and-grpo`
    """
    from minicppo.plots.report import write_report
    from minicppo.plots.runs import load_run
    from minicppo.plots.tables import results, rich_settings, rich_table

    loaded = [load_run(path) for path in runs]
    console.print(rich_table(results(loaded)))
    if len(loaded) > 1:
        console.print(
            "± is the error of the held-out problems: differences within two, or from one seed, settle nothing"
        )
    told = rich_settings(loaded)
    if told is not None:
        console.print(told)
    for path in write_report(loaded, out):
        console.print(str(path))
