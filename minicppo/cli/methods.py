"""`minicppo methods`."""

import json
import math
from typing import Annotated, Any

import typer

from minicppo.cli.console import console, say, table
from minicppo.cli.options import Json, Plugins, load


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method, with its hyper-parameters.")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List every method: its token weight g, what it needs, and what it is; or one of them in full.

    All have the same gradient, the sum over valid tokens of g A grad log pi: only g differs.

    Examples: `minicppo methods`, `minicppo methods cppo-topk`, `minicppo methods --json`
    """
    from minicppo.rules import METHODS

    load(plugins)
    rows = [describe(each) for each in (METHODS if name is None else [name])]
    if as_json:
        print(json.dumps(rows, indent=1, allow_nan=False))
    elif name is None:
        cells = [(row["name"], row["formula"], row["needs"].replace("_", "-"), row["summary"]) for row in rows]
        console.print(table(("method", "token weight g", "needs", "what it is"), cells))
        say("needs: what is kept of the rollout policy: log-probs, its likeliest tokens, or whole distributions.")
        say("Hyper-parameters and their sources: minicppo methods NAME")
    else:
        (row,) = rows
        needs = row["needs"].replace("_", "-")
        console.print(f"{row['name']}: {row['summary']}")
        say(f"  g = {row['formula']}, decided by {row['level']}; needs {needs}", f"  source: {row['source']}")
        params = [(f"method.params.{key}", entry["value"], entry["source"]) for key, entry in row["params"].items()]
        if params:
            console.print(table(("hyper-parameter", "default", "source"), params))


def describe(name: str) -> dict[str, Any]:
    """One method as plain data.

    Raises ValueError: there is no such method.
    """
    from minicppo.rules import get_method

    method = get_method(name)
    params = {
        key: {"value": "inf" if value == math.inf else value, "source": note.source}
        for key, (value, note) in method.hypers.items()
    }
    return {
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula,
        "level": method.level,
        "needs": method.needs,
        "source": method.source,
        "params": params,
    }
