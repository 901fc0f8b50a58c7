"""`minicppo thresholds`: designs by horizon, what fixed settings certify, and how far they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from minicppo.cli.console import console, say, table
from minicppo.cli.options import require_folders
from minicppo.files import kept

if TYPE_CHECKING:
    from minicppo.bounds.design import Method

PAPER = (0.15, 0.02, 0.8)  # delta, delta_b, w_min
SETTINGS = (PAPER, (0.05, 0.005, 1.0), (0.01, 0.001, 1.0), (0.001, 0.0001, 1.0))
CERTIFYING: tuple[Method, ...] = ("uniform", "theorem1", "mean", "path")


def thresholds(
    horizon: Annotated[int, typer.Option(help="Tokens per response, T >= 2.")] = 8192,
    residual: Annotated[float, typer.Option(help="The residual |Delta| to certify, in reward units.")] = 0.5,
    reward_range: Annotated[float, typer.Option(help="max R - min R; xi is half of it.")] = 1.0,
    burst: Annotated[float, typer.Option(help="delta / delta_b.")] = 7.5,
    w_min: Annotated[float, typer.Option(help="The last position's weight, in (0, 1].")] = 1.0,
    kappa: Annotated[float, typer.Option(help="Chi-square over 4 TV^2, for the TV that chi2 permits.")] = 1.0,
    alpha: Annotated[float | None, typer.Option(help="L' / (2 xi U) of a logged step: prints the best budget.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the frontier into this PNG file.")] = None,
) -> None:
    """Thresholds that certify a residual, by bound and horizon, and how far the paper's thresholds reach.

    Derivations: theory/thresholds.md.

    Examples: `minicppo thresholds --horizon 8192 --residual 0.5`, `minicppo thresholds --alpha 0.3`,
    `minicppo thresholds --plot frontier.png`
    """
    from minicppo.bounds.design import HORIZONS, PREMISES, Design, certified_residual, design_thresholds

    require_folders(plot)
    design_thresholds(horizon, residual, reward_range, burst, w_min, "uniform", kappa)  # what is wrong shows at once
    if alpha is not None:
        say(_best_step(alpha, reward_range), "")
    horizons = sorted({*HORIZONS, horizon})
    sources = [Path(__file__), *sorted((Path(__file__).parents[1] / "bounds").glob("*.py"))]
    made = kept("thresholds", sources, _designs, residual, reward_range, burst, w_min, horizons, kappa)
    rows: list[dict[Method, Design]] = [{name: Design(**design) for name, design in row.items()} for row in made]
    asked = rows[horizons.index(horizon)]
    cells = [[name, f"{d.delta:.3g}", "-" if name == "uniform" else f"{d.delta_b:.3g}"] for name, d in asked.items()]
    title = f"T = {horizon}: thresholds that certify a residual of {residual:g}"
    console.print(table(("bound", "delta", "delta_b"), cells, title, words=0))
    by_horizon = [
        [row["path"].horizon, *(f"{design.delta:.3g}" for design in row.values()), f"({row['chi2'].tv:.2g})"]
        for row in rows
    ]
    title = f"delta by horizon (delta_b = delta / {burst:g})"
    console.print(table(("T", *rows[0], ""), by_horizon, title, words=0))  # the uniform rule has no delta_b
    if residual >= reward_range:
        say(
            f"A residual of {residual:g} certifies nothing: J itself can differ by at most {reward_range:g}, "
            "the reward range. Ask for a smaller --residual.\n"
        )
    say(*(f"  {method}: {premise}" for method, premise in PREMISES.items()))
    say("  every bound needs pi << mu: whatever pi may emit, mu may sample")
    say(f"  chi2 thresholds are in chi-square units; in brackets the TV of a token at delta_b if kappa = {kappa:g}\n")

    def by_setting(title: str, values: Sequence[Sequence[object]]) -> Table:
        cells = [[*(f"{v:g}" for v in setting), *row] for setting, row in zip(SETTINGS, values, strict=True)]
        return table(("delta", "delta_b", "w_min", *CERTIFYING), cells, title, words=0)

    certified = [
        [f"{certified_residual(horizon, *setting, reward_range, method):.3g}" for method in CERTIFYING]
        for setting in SETTINGS
    ]
    console.print(by_setting(f"residual certified at T = {horizon} (vacuous above {reward_range:g})", certified))
    say(_verdict("Theorem 1 as implemented", "theorem1", horizon, residual, reward_range))
    say(_verdict("The path budget", "path", horizon, residual, reward_range), "")
    for words, share in (("2 xi", 1.0), ("half of it", 0.5)):
        reach = kept("reach", sources, _reach, share)
        console.print(by_setting(f"largest T with a residual below {words}", reach))
    if plot is not None:
        from minicppo.plots.frontier import draw_frontier
        from minicppo.plots.style import save

        say(f"frontier drawn into {save(draw_frontier(rows), plot)}")


def _designs(
    residual: float, reward_range: float, burst: float, w_min: float, horizons: list[int], kappa: float
) -> list[dict[str, dict[str, Any]]]:
    """`design_table` as plain data."""
    from rich.progress import track

    from minicppo.bounds.design import design_table

    shown = track(horizons, "designing", console=console, transient=True, disable=not console.is_terminal)
    rows = design_table(residual, reward_range, burst, w_min, shown, kappa)
    return [{name: asdict(design) for name, design in row.items()} for row in rows]


def _reach(share: float) -> list[list[int]]:
    from minicppo.bounds.design import largest_horizon

    return [[largest_horizon(*each, method=method, share=share) for method in CERTIFYING] for each in SETTINGS]


def _best_step(alpha: float, reward_range: float) -> str:
    """T4 in words: the best budget after a step whose surrogate was alpha of what its divergence could buy."""
    from minicppo.bounds.step import best_budget, best_chi_square

    (budget, gain), (chi_square, root) = best_budget(alpha), best_chi_square(alpha)
    return (
        f"alpha = {alpha:g}: the best total TV along a response is B = {budget:.3g}, which guarantees a gain of "
        f"{gain * reward_range:.3g}; of chi-square C = {chi_square:.3g}, with alpha = L' / (sigma_R sqrt C), "
        f"{root:.3g} sigma_R at any T."
    )


def _verdict(name: str, method: Method, horizon: int, residual: float, reward_range: float) -> str:
    """Whether the paper's values certify anything here, and how much they would have to shrink."""
    from minicppo.bounds.design import certified_residual, design_thresholds

    delta, delta_b, w_min = PAPER
    bound = certified_residual(horizon, *PAPER, reward_range, method)
    if bound < reward_range:
        return f"{name} at the paper's values certifies {bound:.3g}: not vacuous at T = {horizon}."
    needed = design_thresholds(horizon, residual, reward_range, delta / delta_b, w_min, method)
    return (
        f"{name} at the paper's values {PAPER} is VACUOUS at T = {horizon}: it allows {bound:.3g}, and J can differ by "
        f"at most {reward_range:g}. A residual of {residual:g} needs both thresholds about {delta / needed.delta:.0f} "
        "times smaller."
    )
