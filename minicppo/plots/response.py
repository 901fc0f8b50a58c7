"""One response, token by token (the paper's Figure 3): the threshold c_t, each token's Z_t and the verdict on it."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from minicppo.plots.runs import Run, Trace
from minicppo.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, house_style, literal, new_figure
from minicppo.text import WHITE
from minicppo.verdicts import Reason

MASKED = (Reason.TOKEN, Reason.PREFIX, Reason.BOTH, Reason.SEQUENCE, Reason.MISMATCH)
# label, face, edge, hatch
LOOKS: dict[Reason, tuple[str, str, str, str]] = {
    Reason.TOWARD: (r"kept: moves back toward $\mu$", "white", GREY, ""),
    Reason.INSIDE: ("kept: inside both limits", "#cfcfcf", GREY, ""),
    Reason.TOKEN: ("masked: token test", BLUE, "white", "////"),
    Reason.PREFIX: ("masked: prefix budget", ORANGE, "white", "\\\\\\\\"),
    Reason.BOTH: ("masked: both", ORANGE, BLUE, "xxxx"),
    Reason.SEQUENCE: ("masked: whole response", SKY, "white", "...."),
    Reason.MISMATCH: (r"masked: mismatch of $\pi_{old}$ and $\mu$", GREEN, "white", "----"),
}


def choose_response(trace: Trace) -> int:
    """The row that shows most: by how many kinds of masking occur, then how many verdicts, then how many tokens."""

    def shows(i: int) -> tuple[int, int, int]:
        row = trace.reason[i]
        masked = row[np.isin(row, MASKED)]
        return len(set(masked)), len(set(row)), len(masked)

    return max(range(len(trace.reason)), key=shows)


def choose_window(reason: np.ndarray, width: int) -> tuple[int, int]:
    """(start, stop) of the `width` tokens of one response that hold most masked ones."""
    length = int((reason != Reason.PAD).sum())
    if length <= width:
        return 0, length
    masked = np.concatenate([[0], np.isin(reason[:length], MASKED).cumsum()])
    start = int(np.argmax(masked[width:] - masked[:-width]))
    return start, start + width


def one_response(run: Run, row: int | None = None) -> Figure:
    """Draw one traced response of a run, at most 56 tokens of it.

    Raises ValueError: the run kept no trace.
    """
    trace = run.trace
    if trace is None:
        raise ValueError(f"{run.path} has no trace.safetensors: train with evaluation switched on")
    row = choose_response(trace) if row is None else row
    start, stop = choose_window(trace.reason[row], 56)
    shown = (row, slice(start, stop))
    reason, weighted = trace.reason[shown], (trace.position_weight * trace.divergence)[shown]
    with house_style():
        figure = new_figure(9.0, 3.6)
        ax = figure.subplots()
        draw_verdicts(ax, weighted, reason, first=start + 1)
        if trace.threshold is not None:
            draw_threshold(ax, trace.threshold[shown], float(weighted.max()), first=start + 1)
        ax.set_ylabel(r"weighted divergence $Z_t = w_t D_t$ (TV)")
        tokens = [literal(token.translate(WHITE)) or "∅" for token in trace.tokens[row][start:stop]]
        ax.set_xticks(range(start + 1, stop + 1), tokens, family="monospace")
        for label, verdict in zip(ax.get_xticklabels(), reason, strict=True):
            label.set_rotation(90 if len(label.get_text()) > 1 else 0)
            if verdict in MASKED:  # a masked token may have a bar too small to see
                face = LOOKS[Reason(verdict)][1]
                label.set_bbox({"facecolor": face, "edgecolor": "none", "boxstyle": "square,pad=0.15", "alpha": 0.6})
        prompt = " ".join(trace.prompts[row].split())
        prompt = literal(prompt if len(prompt) <= 40 else prompt[:37] + "...")
        ax.set_xlabel(
            f"response tokens {start + 1} to {stop} of {int(trace.response_mask[row].sum())}, advantage "
            f"{trace.advantages[row, start]:+.2f}, prompt {prompt}"
        )
        masked = "masked tokens are marked below the axis too" if np.isin(reason, MASKED).any() else "nothing is masked"
        ax.set_title(f"One response under {literal(run.method)}: {masked}")
        figure.legend(*legend_entries(reason, trace.threshold is not None), loc="outside upper center", ncols=3)
        return figure


def draw_verdicts(ax: Axes, heights: np.ndarray, reason: np.ndarray, first: int = 1) -> None:
    """One bar a token, coloured and hatched by verdict; (T,) heights and reason codes, positions from `first` on."""
    positions = np.arange(first, first + len(heights))
    for verdict, (_, face, edge, hatch) in LOOKS.items():
        chosen = reason == verdict
        ax.bar(positions[chosen], heights[chosen], facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0.6)
    ax.set_xlim(positions[0] - 0.7, positions[-1] + 0.7)
    ax.grid(visible=False, axis="x")


def draw_threshold(ax: Axes, threshold: np.ndarray, tallest: float, first: int = 1) -> None:
    """c_t as steps over the tokens; below zero, where nothing that moves away passes, the ground is shaded."""
    ax.stairs(threshold, np.arange(first, first + len(threshold) + 1) - 0.5, baseline=None, color=BLACK, linewidth=1.6)
    top, low = 1.12 * max(tallest, float(np.max(threshold))), float(np.min(threshold))
    if low >= 0:
        return
    floor = max(1.15 * low, -0.8 * top)  # the bars stay in sight, however far the prefix has overspent
    ax.set_ylim(floor, top)
    ax.axhspan(floor, 0, color="#f0f0f0", zorder=0)
    ax.axhline(0, color=GREY, linewidth=0.8)
    if floor > low:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        text = f"$c_t$ falls to {low:.2f}"
        ax.text(0.995, 0.04, text, transform=ax.transAxes, ha="right", fontsize=8, bbox=box)


def legend_entries(reason: np.ndarray, threshold: bool = False) -> tuple[list[Artist], list[str]]:
    """Handles and labels of the verdicts that occur, and of the threshold's line."""
    handles: list[Artist] = [Line2D([], [], color=BLACK, linewidth=1.6)] if threshold else []
    texts = [r"threshold $c_t$"] if threshold else []
    for verdict, (label, face, edge, hatch) in LOOKS.items():
        if np.any(reason == verdict):
            handles.append(Patch(facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0.6))
            texts.append(label)
    return handles, texts
