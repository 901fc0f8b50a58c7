"""Drawing the study's plots; `experiments.study.plots` says what is in them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.study.plots import Plot
from minicppo.files import write_atomically
from minicppo.plots.style import GREY, house_style, line_styles, new_figure, save

SCORE_LABELS = {
    "area": "area under the accuracy",
    "worst": "worst window (reward)",
    "final": "final accuracy",
    "collapsed": "collapsed runs (share)",
}
BAND = 0.13


def draw_all(plots: Mapping[str, Plot], folder: Path) -> list[Path]:
    """Write NAME.png and NAME.json for every plot, and remove those of plots that are no more; returns the pictures.

    A picture bears the digest of its data: one that was not drawn again with them is found out, and one that was not
    drawn here is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for drawn in folder.glob("*.json"):
        old = drawn.with_suffix(".png")
        if drawn.stem not in plots and old.is_file() and digest(drawn.read_bytes()).encode() in old.read_bytes():
            drawn.unlink()
            old.unlink()
    pictures = []
    for name, plot in plots.items():
        content = (json.dumps(plot, indent=1) + "\n").encode()
        write_atomically(folder / f"{name}.json", content)
        pictures.append(save(draw(plot), folder / f"{name}.png", digest(content)))
    return pictures


def digest(data: bytes) -> str:
    return f"sha256 {hashlib.sha256(data).hexdigest()}"


def draw(plot: Plot) -> Figure:
    """The figure of one plot."""
    with house_style():
        return {"scores": _scores, "lines": _lines}[plot["kind"]](plot)


def _scores(plot: Plot) -> Figure:
    """One row an arm, settings one under the other; its runs, their centre and its interval in four columns."""
    rows = plot["rows"]
    styles = _styles(rows)
    places, heads = _places(rows)
    lowest = places[-1]
    figure = new_figure(9.2, 1.1 - 0.25 * lowest)
    axes = figure.subplots(1, len(SCORE_LABELS), sharey=True)
    for ax, (name, label) in zip(axes, SCORE_LABELS.items(), strict=True):
        for at, row in zip(places, rows, strict=True):
            style, entry, each = styles[row["arm"]], row[name], row["each"].get(name, [])
            ax.plot(each, [at - 0.28] * len(each), "|", color=GREY, markersize=4, markeredgewidth=0.8)
            ax.plot([entry["low"], entry["high"]], [at, at], color=style["color"], linewidth=2.2, alpha=0.55)
            ax.plot([entry["value"]], [at], **{**style, "linestyle": "none", "markersize": 5})
        ax.set_xlabel(label)
        ax.set_xlim(-0.04, 1.04)
        ax.set_ylim(lowest - 0.7, 0.7)
        ax.grid(visible=False, axis="y")
    axes[0].set_yticks([*places, *heads], [*(row["arm"] for row in rows), *heads.values()])
    for tick in axes[0].get_yticklabels()[len(places) :]:
        tick.set_fontweight("bold")
    counts = sorted({row["runs"] for row in rows})
    runs = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    _title(figure, plot, f"interquartile mean and 95 % interval of {runs} runs an arm (each a tick)")
    return figure


def _places(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], dict[float, str]]:
    """Heights of the rows, from 0 down, and of the settings' names above theirs where there are several."""
    several = len({row["setting"] for row in rows}) > 1
    places, heads, at, setting = [], {}, 0.0, None
    for row in rows:
        if several and row["setting"] != setting:
            at -= 0.5 if setting is not None else 0.0
            heads[at] = setting = row["setting"]
            at -= 1.0
        places.append(at)
        at -= 1.0
    return places, heads


def _lines(plot: Plot) -> Figure:
    """Panels of one number share its scale, and say what it is once a row; several numbers have scales by setting."""
    panels = plot["panels"]
    figure, axes = _grid(panels)
    styles = _styles([line for panel in panels for line in panel["lines"]])
    by_setting = len({panel["label"] for panel in panels}) > 1
    scales = [(panel["label"], panel["setting"] if by_setting else "") for panel in panels]
    ends = _ends(panels, scales)
    for ax, panel, scale in zip(axes, panels, scales, strict=True):
        for line in panel["lines"]:
            style, x = styles[line["arm"]], line["x"]
            ax.plot(x, line["value"], label=line["arm"], linewidth=1.5, markevery=max(1, len(x) // 7), **style)
            ax.fill_between(x, line["low"], line["high"], color=style["color"], alpha=BAND, linewidth=0)
        ax.set_title(": ".join(part for part in (panel["setting"], panel["name"]) if part))
        ax.set_xlabel(panel["over"])
        ax.set_ylabel(panel["label"])
        ax.set_ylim(*ends[scale])
        ax.xaxis.set_major_locator(MaxNLocator(5))
    _legend(figure, plot, f"{plot['what']} and 95 % band")
    return figure


def _grid(panels: Sequence[Plot]) -> tuple[Figure, list[Axes]]:
    """A figure with an axis for each panel, three a row."""
    columns = min(3, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(max(6.0, 3.1 * columns), 1.0 + 2.3 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure, axes[: len(panels)]


def _ends(panels: Sequence[Plot], scales: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[float, float]]:
    """The two ends of each scale: all that the bands of its panels reach, and a little more."""
    reach: dict[tuple[str, str], list[float]] = {}
    for panel, scale in zip(panels, scales, strict=True):
        for line in panel["lines"]:
            reach.setdefault(scale, []).extend([*line["low"], *line["high"]])
    more = {scale: 0.04 * (max(y) - min(y) or 1) for scale, y in reach.items()}
    return {scale: (min(y) - more[scale], max(y) + more[scale]) for scale, y in reach.items()}


def _styles(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each arm is drawn: by its method, and dotted with open markers where an earlier arm has the same method."""
    arms = {row["arm"]: row["method"] for row in rows}
    methods = list(dict.fromkeys(arms.values()))
    by_method = dict(zip(methods, line_styles(methods), strict=True))
    first = {method: arm for arm, method in reversed(arms.items())}
    again = {"linestyle": (0, (1, 1)), "fillstyle": "none"}
    return {arm: by_method[method].kwargs() | ({} if first[method] == arm else again) for arm, method in arms.items()}


def _title(figure: Figure, plot: Plot, note: str) -> None:
    figure.suptitle(f"{plot['title']}: {note}", fontsize=9, x=0.01, ha="left")


def _legend(figure: Figure, plot: Plot, note: str) -> None:
    _title(figure, plot, note)
    pairs = [pair for ax in figure.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in pairs}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, max(1, len(handles))))
