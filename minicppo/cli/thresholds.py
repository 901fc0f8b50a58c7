"""`minicppo thresholds`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minicppo.cli.console import console


def thresholds(
    horizon: Annotated[int, typer.Option(help="Tokens per response, T >= 2.")] = 8192,
    residual: Annotated[float, typer.Option(help="The residual |Delta| to certify, in reward units.")] = 0.5,
    reward_range: Annotated[float, typer.Option(help="max R - min R; xi is half of it.")] = 1.0,
    burst: Annotated[float, typer.Option(help="delta / delta_b.")] = 7.5,
    w_min: Annotated[float, typer.Option(help="The last position's weight, in (0, 1].")] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="Also draw the frontier into this PNG file.")] = None,
) -> None:
    """Thresholds that certify a residual, by bound and horizon, and how far the paper's thresholds reach.

    Derivations: theory/thresholds.md.

    Examples: `minicppo thresholds --horizon 8192 --residual 0.5`, `minicppo thresholds --plot frontier.png`
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from minicppo.bounds.design import HORIZONS, PREMISES, design_table
    from minicppo.plots import thresholds as tables

    horizons = sorted({*HORIZONS, horizon})
    columns = (TextColumn("designing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(horizons))
        rows = design_table(residual, reward_range, burst, w_min, horizons, lambda: progress.advance(task))
    console.print(tables.designs_table(rows, horizon, residual))
    if residual >= reward_range:
        console.print(
            f"[bold]A residual of {residual:g} certifies nothing:[/] J itself can differ by at most {reward_range:g}, "
            "the reward range. Ask for a smaller --residual.\n",
            soft_wrap=True,
        )
    for method, premise in PREMISES.items():
        console.print(f"  {method}: {premise}", soft_wrap=True)
    console.print(
        "  chi2 thresholds are in chi-square units; in brackets the TV of a token at delta_b\n", soft_wrap=True
    )
    console.print(tables.certified_table(horizon, reward_range))
    for line in tables.verdicts(horizon, residual, reward_range):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(tables.reach_table())
    if plot is not None:
        from minicppo.plots.frontier import draw_frontier
        from minicppo.plots.style import save

        console.print(f"frontier drawn into {save(draw_frontier(rows), plot)}")
