"""A run as the configuration file of an engine that only its own command starts: prime-rl, SkyRL, NeMo-RL.

The loss is ours, tested on each engine's own layout; problems, prompts and grading stay the engine's. The settings are
tables in elsewhere.yaml.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from minicppo.engines.refusals import no_model_of_the_hub
from minicppo.engines.samples import engine_method
from minicppo.engines.tables import derived_values, filled, is_megatron, method_params, read_tables
from minicppo.rl.config import RunConfig

Settings = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """An engine as elsewhere.yaml has it, and how its file is written: a comment at its head, and settings."""

    file: str
    command: str
    modes: list[str]
    like: dict[str, bool]
    theirs: str
    settings: Settings
    write: Callable[[str, Settings], str]

    def text(self, config: RunConfig) -> str:
        """The engine's file for a run that `refusals_elsewhere` does not refuse."""
        settings = filled(self.settings, config, _derived(config))
        return self.write(f"# Problems, prompts and grading are {self.theirs}.\n", settings)


def refusals_elsewhere(config: RunConfig, engine: str) -> list[str]:
    """Why one of `TARGETS` cannot carry the run, one line each with its way out."""
    return [f"engine {engine}: {row}" for row in _refusals(config, engine)]


def _refusals(config: RunConfig, engine: str) -> Iterator[str]:
    train, cluster, modes = config.train, config.cluster, TARGETS[engine].modes
    try:
        engine_method(config.method.name, method_params(config), config.plugins, **TARGETS[engine].like)
    except ValueError as error:
        yield str(error)
    if config.task.name != "math":
        yield f"task {config.task.name!r} has no counterpart there: use task math"
    yield from no_model_of_the_hub(config)
    if train.loss_agg_mode not in modes:
        yield f"train.loss_agg_mode = {train.loss_agg_mode}, but it averages otherwise: set it to {' or '.join(modes)}"
    if train.staleness:
        yield f"train.staleness = {train.staleness} is only for engine local: set train.staleness=0"
    if train.epochs > 1 and engine != "skyrl":
        yield f"train.epochs = {train.epochs}, but it uses a response once: set train.epochs=1"
    if is_megatron(cluster):
        yield "Megatron's settings are not written here: use --engine verl, or cluster.tensor_parallel=1 and the like"
    if cluster.overrides:
        yield "cluster.overrides are another engine's: set cluster.overrides=[]"
    if engine == "prime-rl" and (cluster.nodes > 1 or cluster.gpus < 2):
        yield "it splits the GPUs of one node between trainer and sampler: set cluster={nodes: 1, gpus_per_node: 2}"
    if engine == "prime-rl" and train.normalize_std:
        yield "train.normalize_std = true, but it divides by no standard deviation: set it to false"


def _derived(config: RunConfig) -> Settings:
    train, cluster, values = config.train, config.cluster, derived_values(config)
    warmup = max(train.lr_warmup, 1)  # of 1 step: none
    reduction = {"token-mean": "token_mean", "seq-mean-token-mean": "sequence_mean"}.get(train.loss_agg_mode)
    return values | {
        "beta1": train.betas[0],
        "beta2": train.betas[1],
        "warmup": warmup,
        "first_lr": 1 / warmup,  # as a share of train.lr
        "micro_batch": train.micro_batch or 1,
        "updates_in_all": train.iterations * values["updates"],
        "updates_before": values["updates"] - 1,
        "checkpoint_updates": train.checkpoint_every * values["updates"],
        "half_the_gpus": cluster.gpus // 2,
        "other_half": cluster.gpus - cluster.gpus // 2,
        "rollout_engines": cluster.gpus // cluster.rollout_tensor_parallel,
        "skyrl_loss": f"minicppo-{config.method.name}",
        "skyrl_reduction": reduction or "seq_mean_token_sum_norm",
        "skyrl_horizon": None if reduction else config.horizon,
    }


def _toml_file(head: str, sections: Settings) -> str:
    lines = [head.rstrip()]
    for name, settings in sections.items():
        lines += ["", f"[{name}]"] if name else []
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML, tables inline.

    >>> _toml({"delta": 0.15, "ratio_cap": float("inf"), "gate": "hard"})
    '{delta = 0.15, ratio_cap = inf, gate = "hard"}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)


def _shell_script(head: str, settings: Settings) -> str:
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    lines = [f"  {shlex.quote(f'{key}={value}')} \\" for key, value in values.items()]
    start = "exec python -m skyrl.train.entrypoints.main_base \\"
    return "\n".join([f"#!/bin/sh\n{head}{start}", *lines, '  "$@"']) + "\n"


def _yaml_file(head: str, settings: Settings) -> str:
    return head + yaml.safe_dump(settings, sort_keys=False)


WRITE = {"prime-rl": _toml_file, "skyrl": _shell_script, "nemo-rl": _yaml_file}
TARGETS = {name: Target(**table, write=WRITE[name]) for name, table in read_tables("elsewhere.yaml").items()}
