"""Training curves: several runs in one picture, and where each run's masked tokens went."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minicppo.plots.response import LOOKS
from minicppo.plots.runs import Run, labels
from minicppo.plots.style import BLACK, GREY, house_style, line_styles, new_figure
from minicppo.rules import Reason

# (kind of row, metric, title, axis label, in percent)
PANELS = [
    ("eval", "accuracy", "Held-out accuracy", "sampled answers correct (%)", True),
    ("rollout", "reward", "Training reward", "mean reward of a rollout batch", False),
    ("update", "mask/frac", "Masked tokens", "share of response tokens (%)", True),
    ("update", "drift", "Drift from the rollout policy", r"mean $|\log \pi - \log \mu|$ (nats)", False),
]

# Disjoint shares of the response tokens, lowest band first.
REASONS = [
    ("mask/token_only", "token test alone", Reason.TOKEN),
    ("mask/both", "both", Reason.BOTH),
    ("mask/prefix_only", "prefix budget alone", Reason.PREFIX),
]


def curves(runs: list[Run]) -> Figure:
    """Accuracy (band: one standard error), reward, masked share and drift of each run over the iterations."""
    with house_style():
        figure = new_figure(9.0, 5.6)
        axes = figure.subplots(2, 2, sharex=True)
        styles = line_styles([run.method for run in runs])
        for ax, (kind, key, title, label, percent) in zip(axes.flat, PANELS, strict=True):
            scale = 100.0 if percent else 1.0
            ax.update_datalim([(0, 0)])  # the scale's margin is then of all it shows, and the highest marker inside
            for run, style, name in zip(runs, styles, labels(runs), strict=True):
                x, y = run.series(kind, key)
                if len(x) == 0:
                    continue
                if kind == "update":
                    x, y = _mean_by_iteration(x, y)
                every = max(1, len(x) // 8)
                ax.plot(x, scale * y, label=name, linewidth=1.6, markevery=every, **style.kwargs())
                if key == "accuracy":
                    _, error = run.series(kind, "accuracy_se")
                    if len(error) == len(y):
                        ax.fill_between(
                            x, scale * (y - error), scale * (y + error), color=style.color, alpha=0.15, linewidth=0
                        )
            ax.set_title(title)
            ax.set_ylabel(label)
        for ax in axes[1]:
            ax.set_xlabel("iteration (one rollout batch each)")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0, 0].set_ylim(-3, 103)
        axes[0, 1].set_ylim(-0.03, 1.03)
        for ax in axes[1]:
            ax.set_ylim(bottom=0)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=max(1, len(runs)))
        return figure


def masked_share(runs: list[Run]) -> Figure:
    """Share of response tokens masked at each update, split by the test that masked them."""
    with house_style():
        figure = new_figure(max(4.0, 2.4 * len(runs)), 2.9)
        axes = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
        for ax, run, name in zip(axes, runs, labels(runs), strict=True):
            _stack_reasons(ax, run)
            ax.set_title(name)
            ax.set_xlabel("iteration")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[0].set_ylabel("masked tokens (% of response tokens)")
        axes[0].set_ylim(bottom=0)
        pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
        handles = {label: handle for handle, label in pairs}
        if handles:
            figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))
        return figure


def _stack_reasons(ax: Axes, run: Run) -> None:
    x, left = _mean_by_iteration(*run.series("update", "mask/frac"))
    parts: list[tuple[np.ndarray, str, Reason]] = []
    for key, label, reason in REASONS:
        _, share = _mean_by_iteration(*run.series("update", key))
        parts.append((share, label, reason))
        left = left - share
    parts.append((left, "whole response", Reason.SEQUENCE))  # what no token's own test explains
    floor = np.zeros_like(x)
    for share, label, reason in parts:
        if np.all(share < 1e-6):  # rounding of the shares in the log
            continue
        share = 100.0 * share
        _, face, edge, hatch = LOOKS[reason]
        ax.bar(x, share, 1.0, floor, label=label, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0)
        floor = floor + share
    if np.any(floor > 0):
        ax.stairs(floor, [*(x - 0.5), x[-1] + 0.5], color=BLACK, linewidth=0.8)
    else:
        ax.text(0.5, 0.5, "nothing is masked", ha="center", va="center", transform=ax.transAxes, color=GREY)


def _mean_by_iteration(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One value an iteration: the mean over its updates."""
    iterations = np.unique(np.floor(x))
    return iterations, np.array([y[np.floor(x) == i].mean() for i in iterations])
