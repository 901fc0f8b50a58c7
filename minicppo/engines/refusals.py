"""What an engine cannot carry, or would silently do otherwise: a table an engine, read by `plan` and `train`."""

import difflib
import re
from pathlib import Path
from typing import Any

import yaml

from minicppo.engines.memory import architecture_of
from minicppo.engines.split import data_parallel, is_megatron, longest_response, micro_batches
from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rules import METHODS, get_method

VERL: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "verl.yaml").read_text(encoding="utf-8"))
ANCHOR = VERL["anchor"]
VERL_LOSS = (".policy_loss", ".policy_loss._target_", ".policy_loss.loss_mode", ".policy_loss.params")
# Settings of TRL's own optimiser and schedule: the engine makes both from `train`, so that these would change nothing.
WITHOUT_EFFECT = frozenset(
    "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon optim optim_args lr_scheduler_type "
    "lr_scheduler_kwargs warmup_steps warmup_ratio".split()
)


def require_carried(config: RunConfig, processes: int | None = None) -> None:
    """Raise ConfigError, one line for each thing that the engine cannot carry, with its way out."""
    if wrong := refusals(config, processes):
        raise ConfigError("\n".join(wrong))


def refusals(config: RunConfig, processes: int | None = None) -> list[str]:
    """Why the engine cannot carry the run, one line each with its way out. processes: by default one a GPU."""
    rows = {"trl": _trl, "verl": _verl}.get(config.engine, lambda *_: [])(config, processes or config.cluster.gpus)
    return [f"engine {config.engine}: {message}" for wrong, message in rows if wrong]


def _trl(config: RunConfig, processes: int) -> list[tuple[object, str]]:
    train, horizon, name = config.train, longest_response(config), config.method.name
    responses, rows, accumulation = micro_batches(config, processes)
    return [
        (
            config.cluster.nodes > 1 or is_megatron(config.cluster),
            "it puts a whole model on each GPU of one node: use --engine verl, or cluster={nodes: 1}",
        ),
        _staleness(config),
        (
            train.loss_agg_mode == "seq-mean-token-sum-norm" and train.horizon not in (None, horizon),
            f"train.horizon = {train.horizon}, but it divides by max_new_tokens = {horizon}: set it to null",
        ),
        (
            config.rollout.autocast != "same",
            f"rollout.autocast = {config.rollout.autocast}, but it samples as it scores: set it to same",
        ),
        (config.cluster.offload, "cluster.offload = true, but it keeps the training state on the GPU: set it to false"),
        *(
            (
                override.partition("=")[0] in WITHOUT_EFFECT,
                f"cluster.overrides: {override} would change nothing: set train.lr and its neighbours",
            )
            for override in config.cluster.overrides
        ),
        (
            rows * accumulation * processes != responses,
            f"{responses} responses an update do not split into micro-batches of {rows} on {processes} GPUs: set "
            "train.micro_batch to a divisor",
        ),
        (
            config.make_method().needs == "full" and architecture_of(config.model.source),
            f"method {name} keeps whole distributions, 151,936 log-probs a token: use "
            f"--method {closest_variant(name, 'topk', 'log_probs')}",
        ),
    ]


def _verl(config: RunConfig, _: int) -> list[tuple[object, str]]:
    train, source, method = config.train, config.model.source, config.make_method()
    topk = method.needs == "topk"
    responses, ranks = config.prompts_per_update * config.rollout.group_size, data_parallel(config)
    return [
        (
            method.needs != "log_probs",
            f"method {method.name} needs {'the likeliest tokens' if topk else 'whole distributions'} of the rollout "
            "policy, of which verl keeps only the sampled token's log-prob: use "
            f"--engine {'trl' if topk else 'local, with a small vocabulary'}, "
            f"or --method {closest_variant(method.name, 'log_probs')}",
        ),
        (
            source is None or source.startswith("package:") or source.endswith(".gguf"),
            f"model.path = {config.model.path!r} is neither a Hugging Face folder nor hub:OWNER/NAME: set it",
        ),
        (
            config.model.chat is False,
            "model.chat = false, but verl always applies the chat template: set model.chat=null",
        ),
        (config.warmup is not None, "warmup is only for policies built from scratch: set warmup=null"),
        (config.device == "cpu", "device = cpu, but it trains on GPUs: set device=auto"),
        _staleness(config),
        (
            config.task.name != "math",
            f"task {config.task.name!r} has no data files and reward for it: use task math, or engine trl",
        ),
        (
            config.rollout.autocast != "same",
            f"rollout.autocast = {config.rollout.autocast}, but vLLM's bfloat16 is its own: set it to same",
        ),
        (train.autocast == "off", "train.autocast = off, but it trains in bfloat16: set train.autocast=auto"),
        (
            responses % ranks,
            f"{responses} responses an update do not divide among {ranks} data-parallel ranks: fewer GPUs",
        ),
        *(row for override in config.cluster.overrides for row in _verl_override(override)),
    ]


def _staleness(config: RunConfig) -> tuple[object, str]:
    staleness = config.train.staleness
    return staleness, f"train.staleness = {staleness} is only for engine local: set train.staleness=0"


def _verl_override(override: str) -> list[tuple[object, str]]:
    key, _, value = override.lstrip("+~").partition("=")
    whole = any(name.startswith(f"{key}.") for name in ANCHOR)  # a section at once, perhaps with the anchor's keys
    return [
        (
            whole or (key in ANCHOR and value.lower() != str(ANCHOR[key]).lower()),
            f"cluster.overrides: {override} moves the anchor off the rollout policy: leave {key} out",
        ),
        (key.endswith(VERL_LOSS), f"cluster.overrides: {override} names another loss: use --method"),
    ]


def closest_variant(name: str, *needs: str) -> str:
    """The method of the same family that comes closest in name and needs only what is listed, the first for choice.

    "cppo" where the family has none.
    """
    family = [other for other in METHODS if METHODS[other].family == METHODS[name].family]
    able = [other for need in needs for other in family if get_method(other).needs == need]
    wanted = name.replace("-exact", "-topk") if needs[0] == "topk" else re.sub("-(topk|exact)", "", name)
    exact = [other for other in (wanted, name.replace("-exact", "")) if other in able]
    return (exact or difflib.get_close_matches(name, able, n=1, cutoff=0.0) or ["cppo"])[0]
