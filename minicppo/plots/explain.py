"""One response, one method, token by token: every quantity of the rule, as a table, a picture and a page.

Its rows are made by `minicppo.rules.explained`, or by the loop, `minicppo.reference.explained`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from minicppo.text import WHITE, printable
from minicppo.verdicts import COLUMNS, Reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = {"mismatch": "old/mu", "drift": "pi/old"}  # where eighty columns have to do
MEANINGS = {
    "rho": "pi / mu",
    "mismatch": "its mismatch, pi_old / mu",
    "drift": "its drift, pi / pi_old",
    "w": "position weight",
    "D": "divergence",
    "Z": "w D",
    "S": "sum of Z so far, this token included",
    "W": "sum of w so far, this token included",
    "c": "limit on Z, min(delta, delta + delta_b W - S) with the sums before this token",
    "g": "weight of A grad log pi",
}
REASONS = {
    Reason.TOWARD: "toward: the update brings pi no further from mu, always kept",
    Reason.INSIDE: "inside: within the limits",
    Reason.TOKEN: "token: beyond the token's own limit",
    Reason.PREFIX: "prefix: beyond what the prefix leaves",
    Reason.BOTH: "both: beyond the token's limit and what the prefix leaves",
    Reason.SEQUENCE: "response: all of it is rejected",
    Reason.MISMATCH: "mismatch: pi_old is too far from mu",
}
# what a method compares with its limit, as a column, in words and on an axis; of the first that it has
TESTED = {
    "Z": r"weighted divergence $Z_t = w_t D_t$",
    "D": r"divergence $D_t$",
    "|log rho|": r"$|\log\,(\pi/\mu)|$",
}


def table(rows: Sequence[dict[str, Any]], title: str, tokens: Sequence[str] | None = None) -> Table:
    """The rows as a rich table, with the tokens' texts if given; columns the method does not have are left out."""
    if tokens is not None:
        rows = [{**row, "token": printable(token).translate(WHITE)} for row, token in zip(rows, tokens, strict=True)]
    shown = [name for name in ("t", "token", *COLUMNS[1:]) if any(row.get(name) is not None for row in rows)]
    result = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in shown:
        head = HEADS.get(name, name)
        width = max(len(head) if name in HEADS else 0, *(len(_cell(row[name])) for row in rows))
        result.add_column(
            head, justify="left" if name in ("token", "verdict") else "right", no_wrap=True, min_width=width
        )
    for row in rows:
        style = "bold" if row["verdict"].startswith("MASK") else None
        result.add_row(*(_cell(row[name]) for name in shown), style=style)
    return result


def legend(rows: Sequence[dict[str, Any]]) -> str:
    """What the columns and the verdicts mean."""
    meanings = MEANINGS if rows[0]["S"] is not None else {**MEANINGS, "c": f"limit on {_tested(rows)}"}
    known = {HEADS.get(name, name): text for name, text in meanings.items() if rows[0][name] is not None}
    columns = "; ".join(f"{name}: {text}" for name, text in known.items())
    used = "" if rows[0]["delta_b"] is None else f"\ndelta_b used: {_cell(rows[0]['delta_b'])}"
    codes = sorted({Reason[row["reason"].upper()] for row in rows})
    return f"{columns}{used}\nVerdicts. {'; '.join(REASONS[code] for code in codes)}"


def _cell(value: Any) -> str:
    """Four digits and no leading zero, so that the table fits 80 columns."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value + 0.0:.4g}") if isinstance(value, float) else str(value)


def _tested(rows: Sequence[dict[str, Any]]) -> str:
    return next(name for name in TESTED if rows[0].get(name, 0) is not None)


def picture(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Bars of Z_t (or D_t, or |log pi/mu|) by verdict, the threshold c_t, and below them the token weight g."""
    from minicppo.plots.response import draw_threshold, draw_verdicts, legend_entries  # a table needs no matplotlib
    from minicppo.plots.style import house_style, literal, new_figure

    codes = np.array([Reason[row["reason"].upper()] for row in rows])
    tested = _tested(rows)
    heights = np.array([row[tested] if tested in row else abs(math.log(row["rho"])) for row in rows])
    threshold = None if rows[0]["c"] is None else np.array([row["c"] for row in rows])
    with house_style():
        figure = new_figure(max(5.0, 2.2 + 0.45 * len(rows)), 4.4)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        draw_verdicts(top, heights, codes)
        if threshold is not None and np.isfinite(threshold).all():
            draw_threshold(top, threshold, float(heights.max()))
        top.set_ylabel(TESTED[tested])
        top.set_title(literal(title))
        draw_verdicts(bottom, np.array([row["g"] for row in rows]), codes)
        bottom.axhline(1, color="black", linewidth=0.8, linestyle=":")
        bottom.set_ylabel("token weight $g_t$")
        bottom.set_xlabel("token $t$ of the response")
        bottom.set_xticks(range(1, len(rows) + 1, max(1, len(rows) // 20)))
        figure.legend(*legend_entries(codes, threshold is not None), loc="outside upper center", ncols=2)
    return figure


def page(rows: Sequence[dict[str, Any]], tokens: Sequence[str] | None, title: str) -> str:
    """The tokens (None: their numbers) coloured by verdict, the numbers of each under the pointer; needs nothing else.

    A masked token is also struck through, so that the page reads without colours.
    """
    from minicppo.plots.response import LOOKS, MASKED
    from minicppo.plots.style import GREY

    def style(reason: str) -> str:
        code = Reason[reason.upper()]
        _, face, edge, _ = LOOKS[code]
        line = ";text-decoration:line-through" if code in MASKED else ""
        below = f";border-bottom:3px solid {edge}" if edge not in ("white", GREY) else ""  # the second reason
        return f"background:{face.replace('white', '#ffffff')}66{line}{below}"

    texts = [str(row["t"]) for row in rows] if tokens is None else [printable(token) for token in tokens]
    spans = []
    for row, text in zip(rows, texts, strict=True):
        numbers = (f"{name} {value + 0.0:.4g}" for name, value in row.items() if isinstance(value, int | float))
        told = escape(f"{', '.join(numbers)}: {row['verdict']}")
        spans.append(f'<span style="{style(row["reason"])}" title="{told}">{escape(text)}</span>')
    used = dict.fromkeys((row["reason"], row["verdict"]) for row in rows)
    key = (f'<span style="{style(reason)}">{escape(verdict)}</span>' for reason, verdict in used)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font:18px/2 monospace;margin:2em;max-width:60em}span{padding:.1em .15em;white-space:pre-wrap}"
        f"</style><h1>{escape(title)}</h1><p>{' '.join(key)}</p><p>{''.join(spans)}</p></html>\n"
    )
