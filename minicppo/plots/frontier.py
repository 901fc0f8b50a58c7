"""The threshold frontier: how small delta_b must be, by horizon, for a residual one can live with."""

from matplotlib.figure import Figure

from minicppo.bounds.design import Design, Method
from minicppo.plots.style import BLACK, BLUE, GREEN, GREY, VERMILLION, LineStyle, house_style, new_figure

LINES: dict[Method, tuple[str, LineStyle]] = {
    "uniform": ("uniform cap (paper Cor. 6)", LineStyle(GREY, "-", "s")),
    "theorem1": ("Theorem 1 as implemented", LineStyle(VERMILLION, (0, (5, 1.5)), "o")),
    "path": ("path budget (F4)", LineStyle(BLUE, "-", "D")),
    "chi2": ("chi-square budget (F7), as TV", LineStyle(GREEN, (0, (1, 1)), "^")),
}
PAPER = (8192, 0.02)  # T and delta_b as the paper sets them


def draw_frontier(rows: list[dict[Method, Design]]) -> Figure:
    """The TV allowed per token against T for every method, and the paper's; rows as of `bounds.design.design_table`."""
    with house_style():
        figure = new_figure(6.4, 4.2)
        axes = figure.subplots()
        horizons = [row["path"].horizon for row in rows]
        for method, (label, line) in LINES.items():
            axes.loglog(horizons, [row[method].tv for row in rows], label=label, **line.kwargs())
        axes.loglog(*PAPER, "*", color=BLACK, markersize=12, label=f"paper: {PAPER[1]} at {PAPER[0]}")
        axes.set_xlabel("horizon T (tokens)")
        axes.set_ylabel("mean TV allowed per token")
        axes.set_title(f"Thresholds that certify a residual of {rows[0]['path'].bound:g}")
        axes.legend()
    return figure
