"""Run every check of the registry: `python -m theory.verify [--json FILE] [--write-index]`.

Enumerates more than 3,000 pairs of policies, prints one row a statement and exits with 1 if any verdict was
not reproduced. `--write-index` regenerates the table of theory/README.md and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from theory.registry import STATEMENTS, index_table
from theory.study import Study

README = Path(__file__).with_name("README.md")
MARKERS = ("<!-- index: python -m theory.verify --write-index -->", "<!-- end of index -->")
COLOURS = {"holds": "green", "holds with caveat": "yellow", "refuted": "red"}


def run(study: Study, on_row: Callable[[str], None] = lambda name: None) -> list[dict[str, Any]]:
    """Every statement's evidence as a JSON-ready row; `on_row` is called with the id before each check."""
    rows = []
    for statement in STATEMENTS:
        on_row(statement.id)
        start = time.perf_counter()
        evidence = statement.check(study)
        rows.append(
            {
                "id": statement.id,
                "statement": statement.title,
                "source": statement.source,
                "premise": statement.premise,
                "verdict": statement.verdict,
                "agrees": bool(evidence.agrees),
                "instances": int(evidence.instances),
                "ratio": None if evidence.ratio is None else float(evidence.ratio),
                "note": evidence.note,
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
    return rows


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    """The rows for a terminal of 80 columns or more: a line of figures, and what it is about indented below."""
    console.print(f"[bold]{'id':<16}{'source':<22}{'verdict':<20}{'instances':>9}{'worst':>7}{'s':>6}[/]")
    for row in rows:
        colour = COLOURS[row["verdict"]] if row["agrees"] else "white on red"
        verdict = row["verdict"] if row["agrees"] else "NOT REPRODUCED"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3f}"
        source = row["source"] if len(row["source"]) < 22 else row["source"][:18] + "..."
        console.print(
            f"[bold]{row['id']:<16}[/]{escape(source):<22}[{colour}]{verdict:<20}[/]"
            f"{row['instances']:>9}{ratio:>7}{row['seconds']:>6.1f}"
        )
        for text in (row["statement"], f"needs: {row['premise']}", f"found: {row['note'] or 'no violation'}"):
            console.print(Padding(f"[dim]{escape(text)}[/]", (0, 0, 0, 4)))
    console.print("worst: largest |Delta| / bound over the instances, with the worst reward")


def with_index(text: str) -> str:
    """The README with the table between its markers replaced. Raises ValueError if a marker is missing."""
    start, end = MARKERS
    if start not in text or end not in text:
        raise ValueError(f"theory/README.md lost its markers {start!r} and {end!r}; restore them around the table")
    head, tail = text.split(start)[0], text.split(end)[1]
    return f"{head}{start}\n{index_table()}\n{end}{tail}"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m theory.verify", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--write-index", action="store_true", help="regenerate the table of theory/README.md and stop")
    options = parser.parse_args(arguments)
    if options.write_index:
        README.write_text(with_index(README.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    console, study, start = Console(), Study(), time.perf_counter()
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(STATEMENTS) + 1)
        progress.update(task, description="enumerating")
        pairs = len(study.bounds["prop4"])
        rows = run(study, lambda name: progress.update(task, description=name, advance=1))
    show(console, rows)
    failed = [row["id"] for row in rows if not row["agrees"]]
    console.print(
        f"{pairs} enumerated pairs of policies, {len(rows)} statements, {time.perf_counter() - start:.0f} s; "
        + (f"NOT reproduced: {', '.join(failed)}" if failed else "every verdict reproduced")
    )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
