"""What `minicppo thresholds` prints: designs by horizon, what fixed settings certify, and how far they reach."""

from __future__ import annotations

from typing import get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table

from minicppo.bounds.design import Design, Method, certified_residual, design_thresholds, largest_horizon

PAPER = (0.15, 0.02, 0.8)
SETTINGS = (PAPER, (0.05, 0.005, 1.0), (0.01, 0.001, 1.0), (0.001, 0.0001, 1.0))
CERTIFYING: tuple[Method, ...] = ("uniform", "theorem1", "path")  # chi2 has its own unit


def designs_table(rows: list[dict[Method, Design]], horizon: int, residual: float) -> Table:
    """delta by horizon and method; the uniform rule has no delta_b."""
    burst = rows[0]["path"].delta / rows[0]["path"].delta_b
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        title=f"delta for a residual of {residual:g} (delta_b = delta / {burst:g})",
    )
    table.add_column("T", justify="right")
    for method in get_args(Method):
        table.add_column(method, justify="right")
    for row in rows:
        cells = [f"{d.delta:.3g}" for d in row.values()]
        cells[-1] += f" ({row['chi2'].tv:.2g})"
        style = "bold" if row["path"].horizon == horizon else ""
        table.add_row(str(row["path"].horizon), *cells, style=style)
    return table


def certified_table(horizon: int, reward_range: float) -> Table:
    """What fixed settings certify at the horizon."""
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        title=f"residual certified at T = {horizon} (vacuous above {reward_range:g})",
    )
    for name in ("delta", "delta_b", "w_min", *CERTIFYING):
        table.add_column(name, justify="right")
    for values in SETTINGS:
        bounds = [certified_residual(horizon, *values, reward_range, method) for method in CERTIFYING]
        table.add_row(*(f"{v:g}" for v in values), *(f"{bound:.3g}" for bound in bounds))
    return table


def verdicts(horizon: int, residual: float, reward_range: float) -> list[str]:
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


def reach_table() -> Table:
    """The largest horizon at which each setting still says something."""
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        title="largest T with a residual below 2 xi",
    )
    for name in ("delta", "delta_b", "w_min", *CERTIFYING):
        table.add_column(name, justify="right")
    for values in SETTINGS:
        reach = [largest_horizon(*values, method=method) for method in CERTIFYING]
        table.add_row(*(f"{v:g}" for v in values), *(str(horizon) for horizon in reach))
    return table
