"""What an engine cannot carry, or would silently do otherwise: a table an engine, read by `plan` and `train`."""

import difflib
import re
from collections.abc import Iterator

from minicppo.engines.memory import architecture_of
from minicppo.engines.tables import data_parallel, is_megatron, longest_response, micro_batches, read_tables
from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rules import METHODS

VERL = read_tables("verl.yaml")
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
    rows = {"trl": _trl(config, processes or config.cluster.gpus), "verl": _verl(config)}
    return [f"engine {config.engine}: {row}" for row in rows.get(config.engine, ())]


def _trl(config: RunConfig, gpus: int) -> Iterator[str]:
    cluster, train, name, horizon = config.cluster, config.train, config.method.name, longest_response(config)
    if cluster.nodes > 1 or is_megatron(cluster):
        yield "it puts a whole model on each GPU of one node: use --engine verl, or cluster={nodes: 1}"
    yield from _three_policies(config)
    if train.loss_agg_mode == "seq-mean-token-sum-norm" and train.horizon not in (None, horizon):
        yield f"train.horizon = {train.horizon}, but it divides by max_new_tokens = {horizon}: set it to null"
    if config.rollout.autocast != "same":
        yield f"rollout.autocast = {config.rollout.autocast}, but it samples as it scores: set it to same"
    if cluster.offload:
        yield "cluster.offload = true, but it keeps the training state on the GPU: set it to false"
    for override in cluster.overrides:
        if override.partition("=")[0] in WITHOUT_EFFECT:
            yield f"cluster.overrides: {override} would change nothing: set train.lr and its neighbours"
    responses, rows, passes = micro_batches(config, gpus)
    if rows * passes * gpus != responses:
        split = f"{responses} responses an update do not split into micro-batches of {rows} on {gpus} GPUs"
        yield f"{split}: set train.micro_batch to a divisor"
    if config.make_method().needs == "full" and architecture_of(config.model.source):
        variant = closest_variant(name, "topk", "log_probs")
        yield f"method {name} keeps whole distributions, 151,936 log-probs a token: use --method {variant}"


def _verl(config: RunConfig) -> Iterator[str]:
    train, method = config.train, config.make_method()
    if method.needs != "log_probs":
        topk, variant = method.needs == "topk", closest_variant(method.name, "log_probs")
        yield (
            f"method {method.name} needs {'the likeliest tokens' if topk else 'whole distributions'} of the rollout "
            "policy, of which verl keeps only the sampled token's log-prob: use "
            f"--engine {'trl' if topk else 'local, with a small vocabulary'}, or --method {variant}"
        )
    yield from no_model_of_the_hub(config)
    if config.model.chat is False:
        yield "model.chat = false, but verl always applies the chat template: set model.chat=null"
    if config.device == "cpu":
        yield "device = cpu, but it trains on GPUs: set device=auto"
    yield from _three_policies(config)
    if config.task.name != "math":
        yield f"task {config.task.name!r} has no data files and reward for it: use task math, or engine trl"
    if config.rollout.autocast != "same":
        yield f"rollout.autocast = {config.rollout.autocast}, but vLLM's bfloat16 is its own: set it to same"
    if train.autocast == "off":
        yield "train.autocast = off, but it trains in bfloat16: set train.autocast=auto"
    responses, ranks = config.prompts_per_update * config.rollout.group_size, data_parallel(config)
    if responses % ranks:
        yield f"{responses} responses an update do not divide among {ranks} data-parallel ranks: fewer GPUs"
    for override in config.cluster.overrides:
        key, _, value = override.lstrip("+~").partition("=")
        whole = any(name.startswith(f"{key}.") for name in ANCHOR)  # a section at once, perhaps with the anchor's keys
        if whole or (key in ANCHOR and value.lower() != str(ANCHOR[key]).lower()):
            yield f"cluster.overrides: {override} moves the anchor off the rollout policy: leave {key} out"
        if key.endswith(VERL_LOSS):
            yield f"cluster.overrides: {override} names another loss: use --method"


def no_model_of_the_hub(config: RunConfig) -> Iterator[str]:
    """For engines that load models by the hub's library alone."""
    source = config.model.source
    if source is None or source.startswith("package:") or source.endswith(".gguf"):
        yield f"model.path = {config.model.path!r} is neither a Hugging Face folder nor hub:OWNER/NAME: set it"
    if config.warmup is not None:
        yield "warmup is only for policies built from scratch: set warmup=null"


def _three_policies(config: RunConfig) -> Iterator[str]:
    method = config.make_method()
    if method.corrects:
        rule = getattr(method, "rule", method).name
        yield f"{config.method.name} corrects pi_old, which is not known: use --engine local, or --method {rule}"
    elif config.recomputes_old:
        yield "train.old_log_probs = recompute is only for engine local: set it to null"
    if staleness := config.train.staleness:
        yield f"train.staleness = {staleness} is only for engine local: set train.staleness=0"


def closest_variant(name: str, *needs: str) -> str:
    """The family's method closest in name that needs only what is listed, the first for choice; "cppo" if none does."""
    family = [other for other in METHODS if METHODS[other].family == METHODS[name].family]
    able = [other for need in needs for other in family if METHODS[other].needs == need]
    wanted = name.replace("-exact", "-topk") if needs[0] == "topk" else re.sub("-(topk|exact)", "", name)
    exact = [other for other in (wanted, name.replace("-exact", "")) if other in able]
    return (exact or difflib.get_close_matches(name, able, n=1, cutoff=0.0) or ["cppo"])[0]
