"""`minicppo compare`."""

from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import console, results_table, say, table
from minicppo.cli.options import Plugins, load


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="One or more run directories.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where figures and table go.")] = Path("runs/compare"),
    plugins: Plugins = None,
) -> None:
    """Put runs side by side: a table here, figures and the full table as files.

    Also says in which settings the runs differ. Works while the runs are still going. Differences within two standard
    errors, or from one seed, settle nothing.

    Example: `minicppo compare runs/stale-cppo-exact runs/stale-grpo --out runs/cppo-and-grpo`
    """
    from minicppo.plots.report import write_report
    from minicppo.plots.results import results, setting_rows
    from minicppo.plots.runs import load_run

    load(plugins)
    loaded = [load_run(path) for path in runs]
    console.print(results_table(results(loaded)))
    if len(loaded) > 1:
        say("± is the error of the held-out problems: differences within two, or from one seed, settle nothing")
    heads, *rows = setting_rows(loaded)
    if rows:
        console.print(table(heads, rows, "Settings that differ"))
    say(*write_report(loaded, out))
