"""The threshold frontier: how small delta_b must be, by horizon, for a residual one can live with."""

from matplotlib.figure import Figure

from minicppo.bounds.design import Design, Method
from minicppo.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION, LineStyle, house_style, new_figure

LINES: dict[Method, tuple[str, LineStyle]] = {
    "uniform": ("uniform cap (paper Cor. 6)", LineStyle(GREY, "-", "s")),
    "theorem1": ("Theorem 1 as implemented", LineStyle(VERMILLION, (0, (5, 1.5)), "o")),
    "mean": ("the same premise by T2", LineStyle(ORANGE, (0, (5, 1.5)), "v")),
    "path": ("path budget (F4)", LineStyle(BLUE, "-", "D")),
    "band": ("path budget, |rho - 1| < 0.2 (T5)", LineStyle(SKY, "-", "p")),
    "chi2": ("chi-square budget (F7), as TV", LineStyle(GREEN, (0, (1, 1)), "^")),
}
BURSTS: dict[Method, float] = {"path": 1.0, "chi2": 0.5}  # TV as a power of the thresholds
PAPER = (8192, 0.02)  # T and delta_b as the paper sets them


def draw_frontier(rows: list[dict[Method, Design]]) -> Figure:
    """The TV allowed per token against T for every method, and the paper's; rows as of `bounds.design.design_table`.

    Shaded for two: from delta_b, which a token may take on average, up to delta, which one token may take at once.
    """
    with house_style():
        figure = new_figure(6.4, 4.2)
        axes = figure.subplots()
        horizons = [row["path"].horizon for row in rows]
        for method, (label, line) in LINES.items():
            average = [row[method].tv for row in rows]
            axes.loglog(horizons, average, label=label, **line.kwargs())
            if method in BURSTS:
                burst = [row[method].tv * (row[method].delta / row[method].delta_b) ** BURSTS[method] for row in rows]
                axes.fill_between(horizons, average, burst, color=line.color, alpha=0.15, linewidth=0)
        axes.loglog(*PAPER, "*", color=BLACK, markersize=12, label=f"paper: {PAPER[1]} at {PAPER[0]}")
        axes.set_xlabel("horizon T (tokens)")
        axes.set_ylabel("TV allowed per token: mean, shaded up to one burst")
        axes.set_title(f"Thresholds that certify a residual of {rows[0]['path'].bound:g}")
        axes.legend()
    return figure
