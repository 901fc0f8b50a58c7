"""`minicppo config`, `tasks`, `presets` and `methods`: what there is to choose from."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from minicppo.cli.console import console, say, table
from minicppo.cli.options import Json, Plugins, load
from minicppo.files import kept
from minicppo.text import nearest


def config(
    section: Annotated[str | None, typer.Argument(metavar="SECTION", help="train, rollout, eval, ...")] = None,
    as_json: Json = False,
) -> None:
    """Print every key of a configuration with its default: what it is, its type and limits, where the default is from.

    Values are given as KEY=VALUE after `minicppo train PRESET`, or in a YAML file. The hyper-parameters shown are those
    of `cppo`; `minicppo methods NAME` has another method's, and `minicppo tasks` the options of a task.

    Examples: `minicppo config`, `minicppo config train`
    """
    from minicppo.rl.config import RunConfig
    from minicppo.rl.keys import hyper_keys, keys

    hypers = hyper_keys("cppo")
    every = [each for key in keys(RunConfig) for each in [key, *(hypers if key.name == "method.params" else [])]]
    chosen = [key for key in every if section is None or f"{key.name}.".startswith(f"{section}.")]
    if not chosen:
        sections = {key.name.partition(".")[0] for key in every}
        raise ValueError(f"there is no section {section!r}{nearest(str(section), sections)}")
    if as_json:
        print(json.dumps([vars(key) for key in chosen], indent=1))
    for key in () if as_json else chosen:
        about = ", ".join(filter(None, (key.type, key.limits, key.source)))
        setting = f"{key.name}={_cell(key.default) or '{}'}"
        say(f"{setting:34} {key.text} [{about}]")


def tasks(plugins: Plugins = None, as_json: Json = False) -> None:
    """List the tasks, with the options that `task.options.NAME=VALUE` sets, and their defaults.

    A policy from scratch can try those marked so; the others want a pretrained one (`model.path`).

    Examples: `minicppo tasks`, `minicppo train learn task=addition task.options.high=50`
    """
    from minicppo.rl.tasks import TASKS

    load(plugins)
    _show(
        [
            {
                "name": name,
                "policy": "from scratch" if task.alphabet else "pretrained",
                "options": {key: option.default for key, option in inspect.signature(task).parameters.items()},
                "text": (inspect.getdoc(task) or "").partition("\n")[0],
            }
            for name, task in sorted(TASKS.items())
        ],
        as_json,
    )


def presets(as_json: Json = False) -> None:
    """List the presets: what `minicppo train PRESET` trains, and where.

    A batch is the number of iterations x prompts x responses to each.

    Example: `minicppo presets`
    """
    from minicppo.rl.config import load_config, preset_names

    _show(
        [
            {
                "name": name,
                "engine": config.engine,
                "model": config.model.path or f"{config.model.layers} layers of {config.model.hidden_size}",
                "task": config.task.name,
                "method": config.method.name,
                "batches": f"{config.train.iterations} x {config.rollout.prompts} x {config.rollout.group_size}",
            }
            for name in preset_names()
            for config in [load_config(name)]
        ],
        as_json,
    )


def _show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1, default=str))
    else:
        console.print(table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]))


def _cell(value: Any) -> str:
    """A value as it is typed in YAML; options as NAME=VALUE, a required one as its name."""
    if isinstance(value, dict):
        pairs = ((key, inner) for key, inner in value.items() if key != "options")
        return " ".join(key if inner is inspect.Parameter.empty else f"{key}={_cell(inner)}" for key, inner in pairs)
    return value if isinstance(value, str) else json.dumps(value)


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


def catalogue() -> dict[str, Any]:
    """Every method by name, as plain data, kept for the next call: PyTorch, which the rules import, takes two seconds.

    Made anew where the rules are loaded already, maybe with a plugin's.
    """
    if "minicppo.rules" in sys.modules:
        return _catalogue()
    rules = Path(__file__).parents[1] / "rules"
    return kept("methods", [Path(__file__), *sorted(rules.rglob("*.py"))], _catalogue)


def _catalogue() -> dict[str, Any]:
    """JSON has no infinity: a limit there is left out, a value is the word."""
    from minicppo.rules import METHODS

    found = {}
    for method in METHODS.values():
        params = {}
        for key, (value, note) in method.hypers.items():
            limits = {name: limit for name in ("low", "high") if math.isfinite(limit := getattr(note, name))}
            choices = {"choices": note.choices} if note.choices else {}
            params[key] = {"value": "inf" if value == math.inf else value, "source": note.source, **limits, **choices}
        about = ("name", "family", "summary", "formula", "level", "needs", "source")
        found[method.name] = {**{name: getattr(method, name) for name in about}, "params": params}
    return found
