"""`minicppo config`, `tasks` and `presets`: what there is to choose from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from minicppo.cli.console import console, say, table
from minicppo.cli.options import Json, Plugins, load


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
    from minicppo.text import nearest

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
