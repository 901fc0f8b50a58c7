"""One look for every figure: colour-blind-safe, and told apart in black and white by dash, marker and hatch."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from minicppo.text import printable

# The eight colours of Okabe and Ito. Blue and orange are kept for the reasons of a mask, as in the paper's Figure 3.
BLACK, GREY = "#000000", "#8a8a8a"
ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILLION, PURPLE, YELLOW = "#D55E00", "#CC79A7", "#B8A800"

_RC: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "hatch.linewidth": 0.7,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class LineStyle:
    """How a method's line is drawn everywhere."""

    color: str
    dashes: Any
    marker: str

    def kwargs(self) -> dict[str, Any]:
        return {"color": self.color, "linestyle": self.dashes, "marker": self.marker, "markersize": 4}


_FAMILIES = {
    "cppo": LineStyle(VERMILLION, "-", "o"),
    "dppo": LineStyle(GREEN, (0, (5, 1.5)), "s"),
    "grpo": LineStyle(PURPLE, (0, (5, 1.2, 1, 1.2)), "^"),
    "ppo": LineStyle(PURPLE, (0, (1, 1)), "v"),
    "none": LineStyle(BLACK, (0, (1, 1.2)), "x"),
}
_COLORS, _MARKERS = (SKY, YELLOW, BLUE, ORANGE, GREY), "DP*<>hpX"  # 5 and 8: no pair of them twice in 40
_DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def line_styles(methods: list[str]) -> list[LineStyle]:
    """A style for each run: its family's own for the first of a family, for all others one that no family has."""
    others = (LineStyle(*look) for look in zip(cycle(_COLORS), cycle(_DASHES), cycle(_MARKERS), strict=False))
    styles: list[LineStyle] = []
    for method in methods:
        own = _FAMILIES.get(method.split("-")[0])
        styles.append(own if own and own not in styles else next(others))
    return styles


def house_style() -> AbstractContextManager[None]:
    """Draw and save inside this; matplotlib's global settings stay as they were."""
    return matplotlib.rc_context(_RC)


def literal(text: str) -> str:
    """A text from elsewhere as a label that shows it letter by letter: its dollar signs begin no formula."""
    return printable(text).replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches); no pyplot, so nothing global is touched and no screen is needed."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path, source: str = "", dpi: float | None = None) -> Path:
    """Write a PNG that names its `source`, and holds no metadata that would change from one run to the next."""
    if path.suffix != ".png":
        raise ValueError(f"{path.name} is no name of a picture here: it must end in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with house_style():
        figure.savefig(path, dpi=dpi, metadata={"Software": "", **({"Source": source} if source else {})})
    return path
