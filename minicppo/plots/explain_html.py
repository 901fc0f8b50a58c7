"""One response as a page: its tokens coloured by verdict, the numbers of each under the pointer."""

from collections.abc import Sequence
from html import escape
from typing import Any

from minicppo.plots.response import LOOKS, MASKED
from minicppo.plots.style import GREY
from minicppo.text import printable
from minicppo.verdicts import Reason


def page(rows: Sequence[dict[str, Any]], tokens: Sequence[str] | None, title: str) -> str:
    """A page that needs nothing else. rows: of `explain`. tokens: their texts; None: their numbers.

    A masked token is also struck through, so that the page reads without colours.
    """
    texts = [str(row["t"]) for row in rows] if tokens is None else [printable(token) for token in tokens]
    spans = (_span(row, text) for row, text in zip(rows, texts, strict=True))
    used = dict.fromkeys((row["reason"], row["verdict"]) for row in rows)
    key = (f'<span style="{_style(reason)}">{escape(verdict)}</span>' for reason, verdict in used)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font:18px/2 monospace;margin:2em;max-width:60em}span{padding:.1em .15em;white-space:pre-wrap}"
        f"</style><h1>{escape(title)}</h1><p>{' '.join(key)}</p><p>{''.join(spans)}</p></html>\n"
    )


def _span(row: dict[str, Any], text: str) -> str:
    numbers = (f"{name} {value + 0.0:.4g}" for name, value in row.items() if isinstance(value, int | float))
    told = escape(f"{', '.join(numbers)}: {row['verdict']}", quote=True)
    return f'<span style="{_style(row["reason"])}" title="{told}">{escape(text)}</span>'


def _style(reason: str) -> str:
    code = Reason[reason.upper()]
    _, face, edge, _ = LOOKS[code]
    line = ";text-decoration:line-through" if code in MASKED else ""
    below = f";border-bottom:3px solid {edge}" if edge not in ("white", GREY) else ""  # the second reason
    return f"background:{face.replace('white', '#ffffff')}66{line}{below}"
