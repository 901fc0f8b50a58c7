"""The threshold frontier: how small delta_b must be, by horizon, for a residual one can live with."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import matplotlib.pyplot as plt

from minicppo.bounds.design import Design, Method

LABELS: dict[Method, str] = {
    "uniform": "uniform cap (paper Cor. 6)",
    "theorem1": "Theorem 1 as implemented",
    "path": "path budget (F4)",
    "chi2": "chi-square budget (F7), as TV",
}


def plot_frontier(
    rows: list[dict[Method, Design]], target: Path, paper: tuple[float, int] | None = (0.02, 8192)
) -> Path:
    """Draw delta_b against T for every method, and mark (delta_b, T) as the paper sets them; returns
    `target`.

    rows: as `bounds.design.design_table` gives them. The file's ending chooses the format.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    horizons = [row["path"].horizon for row in rows]
    for method in get_args(Method):
        axes.loglog(horizons, [row[method].tv for row in rows], marker="o", label=LABELS[method])
    if paper is not None:
        axes.loglog(paper[1], paper[0], "k*", markersize=13, label=f"paper: {paper[0]} at {paper[1]}")
    axes.set_xlabel("horizon T (tokens)")
    axes.set_ylabel("mean TV allowed per token")
    axes.set_title(f"Thresholds that certify a residual of {rows[0]['path'].bound:g}")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=150)
    plt.close(figure)
    return target
