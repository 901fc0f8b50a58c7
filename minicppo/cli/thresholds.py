"""`minicppo thresholds`: what thresholds certify a residual, and what residual the paper's thresholds
certify.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from minicppo.bounds.design import (
    HORIZONS,
    PREMISES,
    Design,
    Method,
    certified_residual,
    design_table,
    design_thresholds,
    largest_horizon,
)

PAPER = (0.15, 0.02, 0.8)
SETTINGS = (PAPER, (0.05, 0.005, 1.0), (0.01, 0.001, 1.0), (0.001, 0.0001, 1.0))
CERTIFYING: tuple[Method, ...] = ("uniform", "theorem1", "path")  # chi2 has its own unit


def thresholds(
    horizon: Annotated[int, typer.Option(help="Tokens per response, T >= 2.")] = 8192,
    residual: Annotated[float, typer.Option(help="The residual |Delta| to certify, in reward units.")] = 0.5,
    reward_range: Annotated[float, typer.Option(help="max R - min R; xi is half of it.")] = 1.0,
    burst: Annotated[float, typer.Option(help="delta / delta_b.")] = 7.5,
    w_min: Annotated[float, typer.Option(help="The last position's weight, in (0, 1].")] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="Also draw the frontier into this file.")] = None,
) -> None:
    """Thresholds for a residual, by bound and horizon, and how far the paper's thresholds reach."""
    console = Console()
    horizons = sorted({*HORIZONS, horizon})
    columns = (TextColumn("designing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=len(horizons))
            rows = design_table(residual, reward_range, burst, w_min, horizons, lambda: progress.advance(task, 1))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    console.print(_designs(rows, horizon, residual))
    for method in get_args(Method):
        console.print(f"  {method}: {PREMISES[method]}", highlight=False)
    console.print("  chi2 thresholds are in chi-square units; in brackets the TV of a token at delta_b")
    console.print(_certified(horizon, reward_range))
    for line in _verdicts(horizon, residual, reward_range):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_reach())
    if plot is not None:
        from minicppo.report.frontier import plot_frontier

        console.print(f"frontier drawn into {plot_frontier(rows, plot)}")


def _designs(rows: list[dict[Method, Design]], horizon: int, residual: float) -> Table:
    """delta by horizon and method; the uniform rule has no delta_b."""
    burst = rows[0]["path"].delta / rows[0]["path"].delta_b
    table = Table(title=f"delta that certifies a residual of {residual:g}, with delta_b = delta / {burst:g}")
    table.add_column("T", justify="right")
    for method in get_args(Method):
        table.add_column(method, justify="right")
    for row in rows:
        cells = [f"{d.delta:.3g}" for d in row.values()]
        cells[-1] += f" ({row['chi2'].tv:.2g})"
        style = "bold" if row["path"].horizon == horizon else ""
        table.add_row(str(row["path"].horizon), *cells, style=style)
    return table


def _certified(horizon: int, reward_range: float) -> Table:
    """What fixed settings certify at the horizon."""
    table = Table(title=f"residual certified at T = {horizon} (J cannot differ by more than {reward_range:g})")
    for name in ("delta", "delta_b", "w_min", *CERTIFYING):
        table.add_column(name, justify="right")
    for values in SETTINGS:
        bounds = [certified_residual(horizon, *values, reward_range, method) for method in CERTIFYING]
        table.add_row(*(f"{v:g}" for v in values), *(f"{bound:.3g}" for bound in bounds))
    return table


def _verdicts(horizon: int, residual: float, reward_range: float) -> list[str]:
    """Whether the paper's values certify anything here, in plain words, and how much they would have to
    shrink.
    """
    delta, delta_b, w_min = PAPER
    lines = []
    names: dict[Method, str] = {"theorem1": "Theorem 1 as implemented", "path": "The path budget"}
    for method, name in names.items():
        bound = certified_residual(horizon, delta, delta_b, w_min, reward_range, method)
        if bound < reward_range:
            lines.append(f"{name} at the paper's values certifies {bound:.3g}: not vacuous at T = {horizon}.")
            continue
        needed = design_thresholds(horizon, residual, reward_range, delta / delta_b, w_min, method)
        lines.append(
            f"{name} at the paper's values ({delta}, {delta_b}, {w_min}) is VACUOUS at T = {horizon}: it allows "
            f"{bound:.3g}, and J can differ by at most {reward_range:g}. A residual of {residual:g} needs both "
            f"thresholds about {delta / needed.delta:.0f} times smaller."
        )
    return lines


def _reach() -> Table:
    """The largest horizon at which each setting still says something."""
    table = Table(title="largest T with a residual below 2 xi, the range of the reward")
    for name in ("delta", "delta_b", "w_min", *CERTIFYING):
        table.add_column(name, justify="right")
    for values in SETTINGS:
        reach = [largest_horizon(*values, method=method) for method in CERTIFYING]
        table.add_row(*(f"{v:g}" for v in values), *(str(horizon) for horizon in reach))
    return table
