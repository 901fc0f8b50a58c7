"""`minicppo methods`."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from minicppo.cli.console import console


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method, with its hyper-parameters.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every default and source.")] = False,
) -> None:
    """List every method: its token weight g, what it needs, and what it is; or one of them in full.

    All have the same gradient, the sum over valid tokens of g A grad log pi: only g differs.

    Examples: `minicppo methods`, `minicppo methods cppo-topk`, `minicppo methods --json`
    """
    from minicppo.rules import METHODS, get_method

    names = list(METHODS) if name is None else [get_method(name).name]
    rows = [describe(each) for each in names]
    if as_json:
        print(json.dumps(rows, indent=1, allow_nan=False))
    elif name is None:
        _print_all(rows)
    else:
        _print_one(rows[0])


def describe(name: str) -> dict[str, Any]:
    """One entry of the registry as plain data."""
    from minicppo.rules import METHODS, get_method

    method = get_method(name)
    return {
        "name": name,
        "summary": METHODS[name].summary,
        "formula": method.family.formula,
        "level": method.family.level,
        "needs": method.needs,
        "source": method.family.source,
        "params": {
            key: {"value": "inf" if value == math.inf else value, "source": note.source}
            for key, (value, note) in method.hypers.items()
        },
    }


def _print_all(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for head in ("token weight g", "needs", "what it is"):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(row["name"], row["formula"], row["needs"].replace("_", "-"), row["summary"])
    console.print(table)
    console.print("needs: what is kept of the rollout policy: log-probs, its likeliest tokens, or whole distributions.")
    console.print("Hyper-parameters and their sources: minicppo methods NAME")


def _print_one(row: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console.print(f"[bold]{row['name']}[/]: {row['summary']}")
    needs = row["needs"].replace("_", "-")
    console.print(f"  g = {row['formula']}, decided by {row['level']}; needs {needs}", markup=False)
    console.print(f"  source: {row['source']}", markup=False)
    if not row["params"]:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("hyper-parameter", "default", "source"):
        table.add_column(head, overflow="fold")
    for key, entry in row["params"].items():
        table.add_row(f"method.params.{key}", str(entry["value"]), entry["source"])
    console.print(table)
