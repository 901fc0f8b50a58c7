"""The report as one HTML file that needs nothing else: tables written here, the rest drawn by page.html."""

import base64
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from minicppo.files import write_atomically
from minicppo.inspect.inspection import SHOWN, Inspection
from minicppo.inspect.sections import Section, compared, name, sections
from minicppo.inspect.table import Column
from minicppo.text import WHITE, printable

MOST_RESPONSES = 2000


def write_page(found: Sequence[Inspection], path: Path) -> None:
    """One log, or several side by side with the responses of the first."""
    reports = [each.report for each in found]
    shown = [*(compared(reports) if len(reports) > 1 else ()), *sections(reports[0])]
    parts = {
        "title": text(f"Inspected: {name(reports[0])}"),
        "sections": "\n".join(map(as_html, shown)),
        "mask": files("minicppo.inspect").joinpath("mask.js").read_text(encoding="utf-8"),
        "data": json.dumps(page_data(found[0])).replace("<", "\\u003c"),  # no tag can end the script
    }
    template = files("minicppo.inspect").joinpath("page.html").read_text(encoding="utf-8")
    write_atomically(path, re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template).encode())


def text(value: str) -> str:
    """Foreign text as HTML that shows it letter by letter."""
    return html.escape(printable(value))


def as_html(section: Section) -> str:
    """A heading, its table, whose columns of numbers stand right, and its sentences."""

    def cells(tag: str, row: Sequence[str]) -> str:
        sides = ["" if i < section.words else ' class="n"' for i in range(len(row))]
        return "".join(f"<{tag}{side}>{text(cell)}</{tag}>" for side, cell in zip(sides, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in section.rows)
    table = f'<div class="wide"><table><tr>{cells("th", section.heads)}</tr>{body}</table></div>' if body else ""
    notes = "".join(f"<p>{text(note)}</p>" for note in section.notes)
    return f"<section><h2>{text(section.title)}</h2>{table}{notes}</section>" if table or notes else ""


def page_data(found: Inspection) -> dict[str, Any]:
    """What the page draws and computes with: groups, the heat map, and some responses token by token.

    Numbers of tokens are packed: float32 or int32, little-endian, base64.
    """
    report = found.report
    data = {"by": {key: report["by"][key] for key in ("position", "length", "step") if key in report["by"]}}
    data |= {"heat": report.get("heat", []), "rule": report["rule"]["params"], "count": report["responses"]}
    tables = [table for table in found.sample if len(table)]
    if not tables:
        return data | {"responses": None}
    left, strings, columns = MOST_RESPONSES, dict[str, int](), list[list[Column]]()
    for table in tables:
        chosen = (table.lengths > 0) & (np.arange(len(table.lengths)) < left) & (table.lengths.cumsum() <= SHOWN)
        part = table.responses(chosen)
        left -= len(part.lengths)
        texts = [found.strings.text(number) for number in found.strings.numbers(part).tolist()]
        places = [strings.setdefault(printable(t[:40]).translate(WHITE), len(strings)) for t in texts]
        mu, pi = (np.minimum(values, 0) for values in (part.mu, part.mu + part.log_ratio))
        columns.append([part.lengths, part.steps, np.array(places), mu, pi, part.advantages, part.rewards])
    names = ("lengths", "steps", "ids", "mu", "pi", "A", "rewards")
    packed: dict[str, Any] = {}
    for key, parts in zip(names, zip(*columns, strict=True), strict=True):
        values = np.concatenate(parts).astype("<i4" if key in names[:3] else "<f4")
        packed[key] = base64.b64encode(values.tobytes()).decode()
    return data | {"responses": {**packed, "strings": list(strings)}}
