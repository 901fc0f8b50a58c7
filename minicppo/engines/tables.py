"""A run as settings of another engine: its sizes, and tables of the engine's keys in YAML files beside this one."""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from minicppo.rl.config import RunConfig
from minicppo.rl.sections import ClusterConfig


def read_tables(file: str) -> dict[str, dict[str, Any]]:
    """The tables of a file, each by its name."""
    return yaml.safe_load((Path(__file__).parent / file).read_text(encoding="utf-8"))


def filled(table: Any, config: RunConfig, derived: Mapping[str, Any]) -> Any:
    """The table with each `$NAME` as the derived value, or what the configuration has there; without rows of null."""
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


def is_megatron(cluster: ClusterConfig) -> bool:
    """Whether Megatron trains under verl, not FSDP2."""
    return max(cluster.tensor_parallel, cluster.pipeline_parallel, cluster.expert_parallel) > 1


def data_parallel(config: RunConfig) -> int:
    """verl's ranks that each see other responses."""
    return config.cluster.gpus // (config.cluster.tensor_parallel * config.cluster.pipeline_parallel)


def tokens_per_gpu(config: RunConfig) -> int:
    """Tokens of one packed micro-batch: as many as `train.micro_batch` responses of the greatest length have."""
    rows = config.prompts_per_update * config.rollout.group_size // data_parallel(config)
    longest = config.cluster.max_prompt_tokens + longest_response(config)
    return longest * min(config.train.micro_batch or rows, rows)


def micro_batches(config: RunConfig, processes: int) -> tuple[int, int, int]:
    """Under TRL: responses of an update, those of one process in one forward pass, and how many passes it makes."""
    responses = config.prompts_per_update * config.rollout.group_size
    rows = max(min(config.train.micro_batch or responses, responses // processes), 1)
    return responses, rows, responses // (rows * processes)


def longest_response(config: RunConfig) -> int:
    """In tokens."""
    return config.max_new_tokens(config.make_task())
