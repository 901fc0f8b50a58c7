"""`minicppo methods`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from minicppo.cli.catalogue import catalogue
from minicppo.cli.console import console, say, table
from minicppo.cli.options import Json, Plugins, load
from minicppo.text import nearest


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method, with its hyper-parameters.")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List every method: its token weight g, what it needs, and what it is; or one of them in full.

    All have the same gradient, the sum over valid tokens of g A grad log pi: only g differs.

    Examples: `minicppo methods`, `minicppo methods cppo-topk`, `minicppo methods --json`
    """
    load(plugins)
    known = catalogue()
    if name is not None and name not in known:
        raise ValueError(f"method {name!r} is unknown{nearest(name, known)}")
    chosen = list(known.values()) if name is None else [known[name]]
    if as_json:
        print(json.dumps(chosen, indent=1, allow_nan=False))
    elif name is None:
        cells = [(each["name"], each["formula"], each["needs"].replace("_", "-"), each["summary"]) for each in chosen]
        console.print(table(("method", "token weight g", "needs", "what it is"), cells))
        say("needs: what is kept of the rollout policy: log-probs, its likeliest tokens, or whole distributions.")
        say("Hyper-parameters and their sources: minicppo methods NAME")
    else:
        (method,) = chosen
        needs = method["needs"].replace("_", "-")
        console.print(f"{name}: {method['summary']}")
        say(f"  g = {method['formula']}, decided by {method['level']}; needs {needs}", f"  source: {method['source']}")
        params = [(f"method.params.{key}", p["value"], p["source"]) for key, p in method["params"].items()]
        if params:
            console.print(table(("hyper-parameter", "default", "source"), params))
