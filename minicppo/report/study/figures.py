"""Drawing the study's plots; `minicppo.report.study.plots` says what is in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minicppo.report.study.plots import Plot
from minicppo.report.style import GREY, house_style, line_styles, new_figure, save
from minicppo.rl.rundir import write_atomically

SCORE_LABELS = {
    "final": "final held-out accuracy",
    "area": "mean training reward",
    "worst": "lowest late reward",
    "collapsed": "collapsed runs (share)",
}
BAND = 0.13


def draw_all(plots: Mapping[str, Plot], folder: Path) -> list[Path]:
    """Write NAME.png and NAME.json for every plot, and remove what no plot is called; returns the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.*"):
        if old.suffix in (".png", ".json") and old.stem not in plots:
            old.unlink()
    pictures = []
    for name, plot in plots.items():
        write_atomically(folder / f"{name}.json", (json.dumps(plot, indent=1) + "\n").encode())
        pictures.append(save(draw(plot), folder / f"{name}.png"))
    return pictures


def draw(plot: Plot) -> Figure:
    """The figure of one plot."""
    with house_style():
        return {"scores": _scores, "lines": _lines, "profile": _profile, "improvement": _improvement}[plot["kind"]](plot)


def _scores(plot: Plot) -> Figure:
    """One row an arm, settings one under the other; a dot and an interval in each of four columns."""
    rows = plot["rows"]
    several = len({row["setting"] for row in rows}) > 1
    styles = _styles(rows)
    figure = new_figure(9.2, 1.1 + 0.24 * len(rows) + 0.2 * several * len({row["setting"] for row in rows}))
    axes = figure.subplots(1, len(SCORE_LABELS), sharey=True)
    places, labels, place, before = [], [], 0.0, None
    for row in rows:
        if several and row["setting"] != before:
            place -= 1.0 if before is not None else 0.0
            axes[0].annotate(
                row["setting"],
                (0.0, place + 0.75),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                weight="bold",
                fontsize=8,
            )
            before = row["setting"]
            place -= 0.2
        places.append(place)
        labels.append(row["arm"])
        place -= 1.0
    for ax, (name, label) in zip(axes, SCORE_LABELS.items(), strict=True):
        for at, row in zip(places, rows, strict=True):
            style, entry = styles[row["arm"]], row[name]
            ax.plot([entry["low"], entry["high"]], [at, at], color=style.color, linewidth=2.2, alpha=0.55)
            ax.plot([entry["value"]], [at], color=style.color, marker=style.marker, markersize=5, linestyle="none")
        ax.set_xlabel(label)
        ax.set_xlim(-0.03, 1.03)
        ax.set_ylim(place + 0.3, 1.2 if several else 0.7)
    axes[0].set_yticks(places, labels)
    _title(figure, plot, f"dot: interquartile mean; bar: 95 % interval; {_runs(rows)} runs an arm")
    return figure


def _lines(plot: Plot) -> Figure:
    panels = plot["panels"]
    columns = min(3, max(1, len(panels)))
    height = math.ceil(len(panels) / columns)
    figure = new_figure(1.2 + 2.9 * columns, 1.0 + 2.3 * height)
    axes = figure.subplots(height, columns, squeeze=False).flat
    styles = _styles([line for panel in panels for line in panel["lines"]])
    for ax, panel in zip(axes, panels, strict=False):
        for line in panel["lines"]:
            _banded(ax, line, styles)
        ax.set_title(panel["setting"])
        ax.set_xlabel("iteration (one rollout batch each)")
        ax.set_ylabel(panel["label"])
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax in list(axes)[len(panels) :]:
        ax.set_axis_off()
    _legend(figure, plot, "line: interquartile mean of the seeds; band: 95 % interval")
    return figure


def _profile(plot: Plot) -> Figure:
    figure = new_figure(5.6, 3.8)
    ax = figure.subplots()
    styles = _styles(plot["lines"])
    for line in plot["lines"]:
        _banded(ax, line, styles)
    ax.set_xlabel("final held-out accuracy")
    ax.set_ylabel("share of runs above it")
    ax.set_ylim(-0.03, 1.03)
    _legend(figure, plot, "band: 95 % interval")
    return figure


def _improvement(plot: Plot) -> Figure:
    """For each pair an interval; both sides of the middle line means not told apart."""
    rows = plot["rows"]
    figure = new_figure(6.4, 1.2 + 0.34 * len(rows))
    ax = figure.subplots()
    for i, row in enumerate(rows):
        for name, offset, fill in (("final", -0.12, "full"), ("area", 0.12, "none")):
            entry = row[name]
            ax.plot([entry["low"], entry["high"]], [i + offset] * 2, color=GREY, linewidth=2.0)
            ax.plot(
                [entry["value"]],
                [i + offset],
                color="black",
                marker="o" if name == "final" else "s",
                fillstyle=fill,
                linestyle="none",
                label=SCORE_LABELS[name] if i == 0 else None,
            )
    ax.axvline(0.5, color="black", linewidth=0.9, linestyle="--")
    ax.set_yticks(range(len(rows)), [" ".join([f"over {row['second']}", *_in(row["setting"])]) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel(f"probability that {rows[0]['first']} does better")
    _legend(figure, plot, "bar: 95 % interval; where it crosses the dashed line the two are not told apart")
    return figure


def _in(setting: str) -> list[str]:
    return [f"({setting})"] if setting else []


def _styles(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A line style for each arm."""
    arms = {row["arm"]: row["method"] for row in rows}
    return dict(zip(arms, line_styles(list(arms.values())), strict=True))


def _banded(ax: Axes, line: Plot, styles: Mapping[str, Any]) -> None:
    style, x = styles[line["arm"]], line["x"]
    ax.plot(x, line["value"], label=line["arm"], linewidth=1.5, markevery=max(1, len(x) // 7), **style.kwargs())
    ax.fill_between(x, line["low"], line["high"], color=style.color, alpha=BAND, linewidth=0)


def _runs(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({row["runs"] for row in rows})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _title(figure: Figure, plot: Plot, note: str) -> None:
    figure.suptitle(f"{plot['title']}\n", fontsize=9.5, weight="bold", x=0.01, ha="left")
    figure.text(0.01, 0.985, f"\n\n{note}", fontsize=8, ha="left", va="top", color="#404040")


def _legend(figure: Figure, plot: Plot, note: str) -> None:
    pairs = [pair for ax in figure.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in pairs}
    figure.suptitle(f"{plot['title']}: {note}", fontsize=8.5, x=0.01, ha="left")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, max(1, len(handles))))
