"""Training curves: several runs in one picture, and where each run's masked tokens went."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minicppo.plots.response import LOOKS
from minicppo.plots.runs import Run, labels
from minicppo.plots.style import BLACK, GREY, house_style, line_styles, literal, new_figure
from minicppo.rules import Reason

# kind of row, metric, factor, title, axis label, limits of the axis (None: what the data need)
PANELS = [
    ("eval", "accuracy", 100, "Held-out accuracy", "sampled answers correct (%)", (-3, 103)),
    ("rollout", "reward", 1, "Training reward", "mean reward of a rollout batch", (-0.03, 1.03)),
    ("update", "mask/frac", 100, "Masked tokens", "share of response tokens (%)", (0, None)),
    ("update", "drift", 1, "Drift from the rollout policy", r"mean $|\log \pi - \log \mu|$ (nats)", (0, None)),
]

# Disjoint shares of the response tokens, lowest band first.
REASONS = [
    ("mask/token_only", "token test alone", Reason.TOKEN),
    ("mask/both", "both", Reason.BOTH),
    ("mask/prefix_only", "prefix budget alone", Reason.PREFIX),
    ("mask/mismatch", "mismatch", Reason.MISMATCH),
]


def curves(runs: Sequence[Run]) -> Figure:
    """Accuracy (band: one standard error), reward, masked share and drift of each run over the iterations."""
    styles, names = line_styles([run.method for run in runs]), [literal(name) for name in labels(runs)]
    with house_style():
        figure = new_figure(9.0, 5.6)
        axes = figure.subplots(2, 2, sharex=True)
        for ax, (kind, key, factor, title, label, limits) in zip(axes.flat, PANELS, strict=True):
            ax.update_datalim([(0, 0)])  # the scale's margin is then of all it shows, and the highest marker inside
            for run, style, name in zip(runs, styles, names, strict=True):
                x, y = run.series(kind, key)
                if kind == "update":
                    x, y = _mean_by_iteration(x, y)
                if not len(x):
                    continue
                ax.plot(x, factor * y, label=name, linewidth=1.6, markevery=max(1, len(x) // 8), **style.kwargs())
                _, error = run.series(kind, f"{key}_se")
                if len(error) == len(y):
                    band = factor * (y - error), factor * (y + error)
                    ax.fill_between(x, *band, color=style.color, alpha=0.15, linewidth=0)
            ax.set_title(title)
            ax.set_ylabel(label)
            ax.set_ylim(*limits)
        for ax in axes[1]:
            ax.set_xlabel("iteration (one rollout batch each)")
            ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=max(1, len(runs)))
        return figure


def masked_share(runs: Sequence[Run]) -> Figure:
    """Share of response tokens masked at each update, split by the test that masked them."""
    with house_style():
        figure = new_figure(max(4.0, 2.4 * len(runs)), 2.9)
        axes = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
        for ax, run, name in zip(axes, runs, map(literal, labels(runs)), strict=True):
            _stack_reasons(ax, run)
            ax.set_title(name)
            ax.set_xlabel("iteration")
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[0].set_ylabel("masked tokens (% of response tokens)")
        axes[0].set_ylim(bottom=0)
        pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
        if handles := {label: handle for handle, label in pairs}:
            figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))
        return figure


def _stack_reasons(ax: Axes, run: Run) -> None:
    x, masked = _mean_by_iteration(*run.series("update", "mask/frac"))
    logged = [row for row in REASONS if len(run.series("update", row[0])[1])]
    bands = [(_mean_by_iteration(*run.series("update", key))[1], label, reason) for key, label, reason in logged]
    rest = masked - sum(share for share, *_ in bands)  # what no token's own test explains
    floor = np.zeros_like(x)
    for share, label, reason in [*bands, (rest, "whole response", Reason.SEQUENCE)]:
        if np.all(share < 1e-6):  # rounding of the shares in the log
            continue
        _, face, edge, hatch = LOOKS[reason]
        ax.bar(x, 100.0 * share, 1.0, floor, label=label, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0)
        floor = floor + 100.0 * share
    if np.any(floor > 0):
        ax.stairs(floor, [*(x - 0.5), x[-1] + 0.5], color=BLACK, linewidth=0.8)
    else:
        ax.text(0.5, 0.5, "nothing is masked", ha="center", va="center", transform=ax.transAxes, color=GREY)


def _mean_by_iteration(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One value an iteration: the mean over its updates."""
    iterations = np.unique(np.floor(x))
    return iterations, np.array([y[np.floor(x) == i].mean() for i in iterations])
