"""`minicppo methods`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicppo.cli.console import console, say, table
from minicppo.cli.options import Json, Plugins, load
from minicppo.files import user_cache, write_atomically
from minicppo.text import nearest

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
    load(plugins)
    catalogue = _anew() if plugins or "minicppo.rules" in sys.modules else _kept()
    if name is not None and name not in catalogue:
        raise ValueError(f"method {name!r} is unknown{nearest(name, catalogue)}")
    chosen = list(catalogue.values()) if name is None else [catalogue[name]]
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


def _kept() -> dict[str, Any]:
    """`_anew`, from the user's own cache: PyTorch, which the rules import, takes two seconds. By the rules' sources."""
    sources = sorted((Path(__file__).parents[1] / "rules").rglob("*.py"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in [Path(__file__), *sources])).hexdigest()
    name = f"methods-{key[:16]}.json"
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # nothing is kept, it is damaged, or there is no home
        return json.loads((user_cache() / name).read_text(encoding="utf-8"))
    found = _anew()
    with contextlib.suppress(OSError, RuntimeError):  # a home that cannot be written to
        write_atomically(user_cache() / name, json.dumps(found, allow_nan=False).encode())
    return found


def _anew() -> dict[str, Any]:
    """Every method as plain data, by name."""
    from minicppo.rules import METHODS

    return {method.name: _data(method) for method in METHODS.values()}


def _data(method: Method) -> dict[str, Any]:
    """A method as plain data; JSON has no infinity."""
    entry = {name: getattr(method, name) for name in ("name", "summary", "formula", "level", "needs", "source")}
    params = {
        key: {"value": "inf" if value == math.inf else value, "source": note.source}
        for key, (value, note) in method.hypers.items()
    }
    return {**entry, "params": params}
