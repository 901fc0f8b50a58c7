"""The README's picture: what CPPO changes, on one made-up response that goes through the real mask.

`make figures` draws it again. The divergences are chosen by hand to show each effect once; every verdict and threshold
comes from `minicppo.rules`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minicppo.plots.response import draw_verdicts, legend_entries
from minicppo.plots.style import BLACK, GREY, VERMILLION, house_style, new_figure
from minicppo.rules import CPPOMask, cppo_mask

LENGTH, DELTA, DELTA_B, W_MIN = 44, 0.15, 0.02, 0.8


def made_up_divergences() -> np.ndarray:
    """(T,) D_t of one response: quiet tokens, an early burst, a few outliers."""
    quiet = 0.004 + 0.004 * np.sin(1.7 * np.arange(LENGTH)) ** 2
    outliers = {4: 0.10, 5: 0.09, 6: 0.11, 9: 0.05, 12: 0.03, 15: 0.05, 24: 0.05, 36: 0.17, 41: 0.21}
    for position, value in outliers.items():
        quiet[position - 1] = value
    return quiet


def masks(divergences: np.ndarray) -> tuple[CPPOMask, CPPOMask]:
    """The same tokens, all of them moving away from mu, under the uniform rule and under CPPO."""
    D = torch.tensor(divergences)[None]
    mu = torch.full_like(D, 0.5)
    inputs = ((mu + D).log(), mu.log(), torch.ones(1, dtype=D.dtype), torch.ones_like(D, dtype=torch.bool))
    uniform = cppo_mask(*inputs, delta=DELTA, w_min=1.0, budget="off", divergence=D)
    cppo = cppo_mask(*inputs, delta=DELTA, delta_b=DELTA_B, w_min=W_MIN, budget="fixed", divergence=D)
    return uniform, cppo


def overview() -> Figure:
    """Three panels over token positions: the uniform rule, CPPO, and the account behind CPPO's budget."""
    D = made_up_divergences()
    uniform, cppo = masks(D)
    w, threshold = cppo.position_weight[0].numpy(), cppo.threshold[0].numpy()
    with house_style():
        figure = new_figure(9.0, 6.9)
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3.4, 2])
        draw_verdicts(top, D, uniform.reason[0].numpy())
        _steps(top, np.full(LENGTH, DELTA))
        top.set_title(r"DPPO: one limit $\delta$ for every token, whatever came before")

        draw_verdicts(middle, D, cppo.reason[0].numpy())
        _steps(middle, DELTA / w, color=GREY, dashed=True)
        _steps(middle, threshold / w)
        middle.set_title(r"CPPO: the same tokens, with position weights $w_t$ and a prefix budget $\delta_b$")
        for ax in (top, middle):
            ax.set_ylabel(r"divergence $D_t$ (TV)")
            ax.set_ylim(0 if ax is top else -0.06, 0.26)
        middle.axhspan(-0.06, 0, color="#f0f0f0", zorder=0)
        middle.axhline(0, color=GREY, linewidth=0.8)
        top.text(18.5, DELTA + 0.008, r"token test: $\delta$", color="#606060", fontsize=8)
        _note(top, "kept, whatever the prefix did", (9, 0.052), (10.5, 0.1))
        _note(middle, "an early burst uses up the budget ...", (6, 0.112), (7.4, 0.2))
        _note(middle, "... so small moves are masked\nuntil the account has recovered", (9, 0.052), (10.5, 0.1))
        _note(middle, "late tokens may move more:\nmasked above, kept here", (36, 0.172), (25.5, 0.21))
        middle.text(18.5, DELTA / w[18] + 0.015, r"token test alone: $\delta / w_t$", color="#606060", fontsize=8)
        _note(middle, r"still allowed: $c_t / w_t$", (27.5, threshold[26] / w[26]), (26, 0.028))

        _account(bottom, cppo)
        bottom.set_xlabel("token position $t$")
        bottom.set_xlim(0.3, LENGTH + 0.7)
        figure.legend(
            *legend_entries(np.concatenate([uniform.reason[0].numpy(), cppo.reason[0].numpy()])),
            loc="outside upper center",
            ncols=4,
        )
        return figure


def _account(ax: Axes, mask: CPPOMask) -> None:
    w, Z = mask.position_weight[0].numpy(), mask.weighted_divergence[0].numpy()
    before = np.concatenate([[0.0], np.cumsum(w)[:-1]])
    edges = np.arange(LENGTH + 1) + 0.5
    allowed, drifted = DELTA + DELTA_B * before, np.concatenate([[0.0], np.cumsum(Z)[:-1]])
    look: dict[str, Any] = {"baseline": None, "linewidth": 1.4}
    ax.stairs(allowed, edges, color=BLACK, label=r"allowed: $\delta + \delta_b W_{t-1}$", **look)
    ax.stairs(drifted, edges, color=VERMILLION, linestyle="--", label=r"drifted so far: $S_{t-1}$", **look)
    ax.set_title("The account behind it: every token deposits and every token withdraws, masked or not")
    ax.set_ylabel(r"sum of $w D$ (TV)")
    ax.set_ylim(bottom=0)
    ax.grid(visible=False, axis="x")
    ax.legend(loc="upper left")


def _steps(ax: Axes, values: np.ndarray, color: str = BLACK, dashed: bool = False) -> None:
    edges = np.arange(LENGTH + 1) + 0.5
    ax.stairs(values, edges, baseline=None, color=color, linewidth=1.4, linestyle="--" if dashed else "-")


def _note(ax: Axes, text: str, at: tuple[float, float], text_at: tuple[float, float]) -> None:
    ax.annotate(
        text, at, text_at, fontsize=8, arrowprops={"arrowstyle": "-|>", "color": BLACK, "linewidth": 0.7, "shrinkB": 2}
    )
