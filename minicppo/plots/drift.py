"""Drift by position: where in a response the policies have moved apart, beside what the rule allows there."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minicppo.plots.runs import Run, Trace, labels
from minicppo.plots.style import BLACK, house_style, line_styles, literal, new_figure

FLOOR = 1e-5  # smaller drift is drawn here
BINS = 10  # at most; a trace has few responses, so finer bins would be mostly noise
PARTS = {"mismatch": (r"mismatch $|\pi_{old} - \mu|$", ":"), "drift": (r"drift $|\pi - \pi_{old}|$", "-.")}


def by_position(trace: Trace, part: str = "") -> dict[str, np.ndarray]:
    """|pi - mu| of the sampled tokens by token position (paper Figure 2), or a part of it: "mismatch" or "drift".

    Returns arrays over the bins: `position` (centre, 1-based), `mean`, `top` (mean of the largest tenth of the tokens
    in that bin) and `weight` (mean position weight w_t). Positions that fewer than a tenth of the responses reach are
    left out.
    """
    mask, gap = trace.response_mask, trace.parts[part] if part else trace.gap
    length = int((mask.sum(0) >= max(1, 0.1 * len(mask))).sum())
    edges = np.unique(np.linspace(0, length, min(BINS, length) + 1).round().astype(int))
    rows = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        inside = mask[:, start:stop]
        gaps = np.sort(gap[:, start:stop][inside])
        largest = gaps[-max(1, len(gaps) // 10) :]
        weight = trace.position_weight[:, start:stop][inside].mean()
        rows.append(((start + 1 + stop) / 2, gaps.mean(), largest.mean(), weight))
    return dict(zip(("position", "mean", "top", "weight"), np.array(rows, dtype=float).T, strict=True))


def drift_by_position(runs: Sequence[Run]) -> Figure:
    """Mean and top tenth of |pi - mu| by position, one line a run, with the token test's allowance delta / w_t.

    A run that recorded pi_old has its mismatch and its drift beside it.

    Raises ValueError: none of the runs kept a trace.
    """
    styles = line_styles([run.method for run in runs])
    kept = [(run, run.trace, style) for run, style in zip(runs, styles, strict=True) if run.trace is not None]
    traced = [(run, trace, by_position(trace), style.kwargs()) for run, trace, style in kept]
    if not traced:
        raise ValueError("none of these runs has a trace.safetensors: train with evaluation switched on")
    names = [literal(name) for name in labels([run for run, *_ in traced])]
    with house_style():
        figure = new_figure(9.0, 3.6)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        for ax, key, title in ((left, "mean", "Mean drift"), (right, "top", "Mean of the largest tenth")):
            for (_, trace, bins, look), name in zip(traced, names, strict=True):
                ax.plot(bins["position"], bins[key].clip(min=FLOOR), label=name, linewidth=1.5, markevery=2, **look)
                for part in trace.parts:
                    label, dash = PARTS[part]
                    values = by_position(trace, part)[key].clip(min=FLOOR)
                    ax.plot(bins["position"], values, label=f"{name}: {label}", linestyle=dash, color=look["color"])
            _draw_allowances(ax, [(run, bins) for run, _, bins, _ in traced])
            ax.set_title(title)
            ax.set_xlabel("token position in the response")
        left.set_ylabel(r"$|\pi - \mu|$ of the sampled token (log scale)" + "\nwhat is smaller is drawn at the bottom")
        left.set_yscale("log")
        left.set_ylim(FLOOR, 1.0)
        handles, texts = left.get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper center", ncols=len(handles))
        return figure


def _draw_allowances(ax: Axes, traced: list[tuple[Run, dict[str, np.ndarray]]]) -> None:
    """delta / w_t of each distinct rule that tests every token's divergence."""
    drawn: set[tuple[float, bool]] = set()
    for run, bins in traced:
        delta, weighted = float(run.params.get("delta") or 0), bool(np.ptp(bins["weight"]) > 1e-6)
        if delta and (delta, weighted) not in drawn:
            drawn.add((delta, weighted))
            text = rf"$\delta{' / w_t' * weighted}$ of {run.method}"
            width = 2.2 if weighted else 0.9
            ax.plot(bins["position"], delta / bins["weight"], color=BLACK, linewidth=width, label=text)
