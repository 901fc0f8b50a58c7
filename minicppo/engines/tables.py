"""A run as settings of another engine, from a table of the engine's own keys in a YAML file beside this one."""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from minicppo.engines.split import longest_response
from minicppo.rl.config import RunConfig


def read_tables(file: str) -> dict[str, dict[str, Any]]:
    """The tables of a file, each by its name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / file).read_text(encoding="utf-8"))
    return found


def filled(table: Any, config: RunConfig, derived: Mapping[str, Any]) -> Any:
    """The table with a value in the place of each `$NAME`: a derived one, or what the configuration has there.

    A row that comes out as null is left out.
    """
    if isinstance(table, dict):
        rows = {key: filled(value, config, derived) for key, value in table.items()}
        return {key: value for key, value in rows.items() if value is not None}
    if isinstance(table, list):
        return [filled(item, config, derived) for item in table]
    if not isinstance(table, str) or not table.startswith("$"):
        return table
    name = table[1:]
    return derived[name] if name in derived else attrgetter(name)(config)


def method_params(config: RunConfig) -> dict[str, Any]:
    """The method's hyper-parameters, and the correction it is to have."""
    correction = {key: value for key, value in config.method.params.items() if key == "correction"}
    return correction | dict(sorted(config.make_method().params.items()))


def derived_values(config: RunConfig) -> dict[str, Any]:
    """What several engines are told that is no key of the configuration. Lengths are in tokens."""
    train, longest = config.train, longest_response(config)
    return {
        "params": method_params(config),
        "plugins": config.plugins or None,
        "longest": longest,
        "sequence": config.cluster.max_prompt_tokens + longest,
        "responses": config.prompts_per_update * config.rollout.group_size,  # of an update
        "updates": train.minibatches * train.epochs,  # of a rollout batch
    }
