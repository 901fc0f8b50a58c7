"""The picture of docs/corrections.md: how much of a token's importance weight each method lets pass.

`make figures` draws it again. Every value comes from the methods themselves, asked about responses of one token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minicppo.plots.style import house_style, new_figure
from minicppo.rules import TokenBatch, get_method

MU, REACH, STEPS, COLUMNS = 0.2, 1.4, 71, 8
CORRECTED: dict[str, dict[str, Any]] = {
    "dppo + icepop": {"name": "dppo", "correction": "icepop"},
    "..., anchor mu": {"name": "dppo", "correction": "icepop", "anchor": "rollout"},
}
PANELS: dict[str, dict[str, Any]] = {
    **{
        name: {"name": name}
        for name in ("none", "reinforce", "cispo", "grpo", "grpo-dual", "rollout-is", "gspo", "gmpo")
    },
    **{name: {"name": name} for name in ("dppo", "prime-rl", "ipo", "sapo", "trm-avg-k3", "opsm", "vespo", "topr")},
    **{name: {"name": name} for name in ("tis", "icepop", "seq-tis", "seq-mask", "geo-mask", "k3-mask")},
    **CORRECTED,
}


def passed(advantage: float, **method: Any) -> np.ndarray:
    """(STEPS, STEPS) g / rho over log pi_old/mu (columns) and log pi/pi_old (rows); NaN where pi would exceed 1."""
    axis = torch.linspace(-REACH, REACH, STEPS, dtype=torch.float64)
    drift, mismatch = (values.flatten()[:, None] for values in torch.meshgrid(axis, axis, indexing="ij"))
    mu = torch.full_like(drift, MU).log()
    possible = (mu + mismatch + drift < 0) & (mu + mismatch < 0)
    old, pi = (torch.where(possible, x, mu) for x in (mu + mismatch, mu + mismatch + drift))
    batch = TokenBatch(pi, mu, torch.full((len(mu),), advantage, dtype=torch.float64), old_log_probs=old)
    share = get_method(**method)(batch).weight / batch.ratio
    return torch.where(possible, share, torch.nan).reshape(STEPS, STEPS).numpy()


def gates() -> Figure:
    """One panel a method, above for A > 0, below for A < 0: white where nothing passes, dark where all of it does."""
    rows = len(PANELS) // COLUMNS
    with house_style():
        figure = new_figure(13.0, 11.0)
        halves: Any = figure.subfigures(2, 1)
        for half, advantage, title in zip(halves, (1.0, -1.0), ("$A > 0$", "$A < 0$"), strict=True):
            half.suptitle(title, fontweight="bold")
            axes = half.subplots(rows, COLUMNS, sharex=True, sharey=True)
            for ax, (name, method) in zip(axes.flat, PANELS.items(), strict=True):
                _panel(ax, name, passed(advantage, **method))
            half.supylabel(r"drift $\log\,\pi/\pi_{old}$")
            half.supxlabel(r"mismatch $\log\,\pi_{old}/\mu$")
        return figure


def _panel(ax: Axes, name: str, share: np.ndarray) -> None:
    ax.set_facecolor("#e8dcc8")  # where pi would exceed 1
    ends = (-REACH, REACH, -REACH, REACH)
    ax.imshow(share, origin="lower", extent=ends, cmap="Blues", vmin=0, vmax=1.25, interpolation="nearest")
    ax.plot([-REACH, REACH], [REACH, -REACH], color="black", linewidth=0.6, linestyle=":")  # pi = mu
    ax.set_title(name, fontsize=8)
    ax.grid(visible=False)
