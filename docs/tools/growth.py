"""How the cost of a rollout and an update grows with response length and vocabulary, from a committed benchmark.

    python -m docs.tools.growth     # docs/growth.png (make figures)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from minicppo.plots.style import BLUE, GREY, ORANGE, house_style, new_figure, save

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "experiments" / "benchmarks" / "results" / "end_to_end.json"
SERIES = [("rollout_s", "rollout", BLUE, "o", "-"), ("update_s", "update", ORANGE, "s", (0, (5, 1.5)))]
PANELS = [("growth in T", "tokens of a response"), ("growth in V", "tokens of the vocabulary")]


def growth() -> Figure:
    """Seconds against size on logarithmic axes, each beside a line of slope one through its largest point."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]
    with house_style():
        figure = new_figure(7.2, 3.0)
        for ax, (kind, label) in zip(figure.subplots(1, 2), PANELS, strict=True):
            rows = [row for row in measured if row["kind"] == kind]
            size = np.array([row["size"] for row in rows], dtype=float)
            for key, name, color, marker, dashes in SERIES:
                took = np.array([row[key] for row in rows])
                ax.plot(size, took, color=color, marker=marker, linestyle=dashes, label=name)
                ax.plot(size, took[-1] * size / size[-1], color=GREY, linewidth=0.8, linestyle=":")
            ax.plot([], [], color=GREY, linewidth=0.8, linestyle=":", label="linear")
            ax.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
            ax.set_xticks(size, [f"{int(n):,}" if n < 10_000 else f"{n / 1000:.0f}k" for n in size])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.legend()
        return figure


if __name__ == "__main__":
    save(growth(), ROOT / "docs" / "growth.png")
