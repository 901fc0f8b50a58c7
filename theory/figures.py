"""Figures of the theory pages: `python -m theory.figures` redraws them into theory/figures/."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from minicppo.bounds.budget import Budget
from minicppo.bounds.flow import shared_parameter_flow

FOLDER = Path(__file__).with_name("figures")
EXAMPLES = (
    ((0.2, 4.0), "early slope 0.2, late 4: the budget leaks"),
    ((4.0, 0.2), "early slope 4, late 0.2: the budget holds, DPPO does not"),
)


def draw_shared_parameter(target: Path) -> Path:
    """Both parameter-sharing examples: the drift of each token as theta rises; returns `target`."""
    cppo, dppo = Budget(0.15, 0.02, np.ones(2)), Budget(0.15, 1.0, np.ones(2))
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True, layout="constrained")
    for panel, (slopes, title) in zip(axes, EXAMPLES, strict=True):
        full = shared_parameter_flow(np.array(slopes), dppo)
        stopped = shared_parameter_flow(np.array(slopes), cppo)
        for t, style in enumerate(("C0-", "C1-")):
            panel.plot(full.theta, full.divergence[:, t], style, label=f"$D_{t + 1}$")
        panel.plot(full.theta, full.divergence.sum(axis=1), "k-", label="$S_2 = D_1 + D_2$")
        panel.axhline(cppo.limits[1], color="C3", ls="--", label="budget $\\delta + \\delta_b$ = 0.17")
        panel.axhline(cppo.delta, color="0.6", ls=":", label="cap $\\delta$ = 0.15")
        for flow, name, marker in ((full, "DPPO stops", "s"), (stopped, "CPPO stops", "o")):
            place = (flow.theta[-1], flow.final.sum())
            panel.plot(*place, marker, color="k", mfc="w" if marker == "s" else "k", label=name)
        panel.set_xscale("log")
        panel.set_xlim(5e-3, 5)
        panel.set_xlabel("shared parameter $\\theta$")
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("total variation")
    axes[0].legend(fontsize=8, loc="upper left")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return target


if __name__ == "__main__":
    print(draw_shared_parameter(FOLDER / "shared-parameter.png"))
