"""`minicppo methods`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicppo.cli.console import console, say, table
from minicppo.cli.options import Json, Plugins, load

if TYPE_CHECKING:
    from minicppo.rules import Method


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method, with its hyper-parameters.")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List every method: its token weight g, what it needs, and what it is; or one of them in full.

    All have the same gradient, the sum over valid tokens of g A grad log pi: only g differs.

    Examples: `minicppo methods`, `minicppo methods cppo-topk`, `minicppo methods --json`
    """
    from minicppo.rules import METHODS, get_method

    load(plugins)
    chosen = [get_method(each) for each in (METHODS if name is None else [name])]
    if as_json:
        print(json.dumps([_data(method) for method in chosen], indent=1, allow_nan=False))
    elif name is None:
        cells = [(method.name, method.formula, method.needs.replace("_", "-"), method.summary) for method in chosen]
        console.print(table(("method", "token weight g", "needs", "what it is"), cells))
        say("needs: what is kept of the rollout policy: log-probs, its likeliest tokens, or whole distributions.")
        say("Hyper-parameters and their sources: minicppo methods NAME")
    else:
        (method,) = chosen
        needs = method.needs.replace("_", "-")
        console.print(f"{method.name}: {method.summary}")
        say(f"  g = {method.formula}, decided by {method.level}; needs {needs}", f"  source: {method.source}")
        params = [(f"method.params.{key}", value, note.source) for key, (value, note) in method.hypers.items()]
        if params:
            console.print(table(("hyper-parameter", "default", "source"), params))


def _data(method: Method) -> dict[str, Any]:
    """A method as plain data; JSON has no infinity."""
    entry = {name: getattr(method, name) for name in ("name", "summary", "formula", "level", "needs", "source")}
    params = {
        key: {"value": "inf" if value == math.inf else value, "source": note.source}
        for key, (value, note) in method.hypers.items()
    }
    return {**entry, "params": params}
