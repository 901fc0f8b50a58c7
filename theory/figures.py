"""Figures of the theory pages: `python -m theory.figures` redraws them into theory/figures/."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from minicppo.bounds.budget import Budget
from minicppo.plots import style
from theory.flow import shared_parameter_flow

FOLDER = Path(__file__).with_name("figures")
EXAMPLES = (
    ((0.2, 4.0), "early slope 0.2, late 4: the budget leaks"),
    ((4.0, 0.2), "early slope 4, late 0.2: the budget holds, DPPO does not"),
)


def draw_shared_parameter(target: Path) -> Path:
    """Both parameter-sharing examples: the drift of each token as theta rises; returns `target`."""
    cppo, dppo = Budget(0.15, 0.02, np.ones(2)), Budget(0.15, 1.0, np.ones(2))
    with style.house_style():
        figure = style.new_figure(9.6, 3.9)
        axes = figure.subplots(1, 2, sharey=True)
        for panel, (slopes, title) in zip(axes, EXAMPLES, strict=True):
            full = shared_parameter_flow(np.array(slopes), dppo)
            stopped = shared_parameter_flow(np.array(slopes), cppo)
            for t, (color, marker) in enumerate(((style.BLUE, "^"), (style.ORANGE, "v"))):
                look = {"color": color, "marker": marker, "markersize": 5, "markevery": 0.12}
                panel.plot(full.theta, full.divergence[:, t], label=f"$D_{t + 1}$", **look)
            panel.plot(full.theta, full.divergence.sum(axis=1), color=style.BLACK, label="$S_2 = D_1 + D_2$")
            panel.axhline(cppo.limits[1], color=style.VERMILLION, ls="--", label="budget $\\delta + \\delta_b$ = 0.17")
            panel.axhline(cppo.delta, color=style.GREY, ls=":", label="cap $\\delta$ = 0.15")
            for flow, name, marker, face in ((full, "DPPO stops", "s", "w"), (stopped, "CPPO stops", "o", style.BLACK)):
                panel.plot(flow.theta[-1], flow.final.sum(), marker, color=style.BLACK, mfc=face, label=name)
            panel.set(xscale="log", xlim=(5e-3, 5), xlabel="shared parameter $\\theta$", title=title)
        axes[0].set_ylabel("total variation")
        axes[0].legend(loc="upper left")
    return style.save(figure, target)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(draw_shared_parameter(FOLDER / "shared-parameter.png"))
