"""A run's configuration as settings of verl 0.9.1: a pure function, checked by verl's own validation in the tests.

Read from verl's source and not run here: everything of vLLM and Megatron.
"""

import difflib
import re
from pathlib import Path
from typing import Any

from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rules import METHODS, get_method

PIN = ">=0.9.1,<0.10"
TARGET = "minicppo.engines.verl_loss.CPPOPolicyLossConfig"
TAKEN = ("cispo", "gspo", "sapo")  # names that verl's own losses have; ours differ from them and stand beside them

# What makes the rollout policy the anchor of every ratio. Changing one of them changes the method.
ANCHOR = {
    "trainer.use_v1": True,  # v0 replaces the loss by its own "bypass_mode"
    "algorithm.rollout_correction.bypass_mode": True,  # old_log_probs are the rollout's, not recomputed
    "actor_rollout_ref.rollout.calculate_log_probs": True,
    "actor_rollout_ref.rollout.logprobs_mode": "processed_logprobs",  # with the temperature applied
    "actor_rollout_ref.rollout.top_p": 1,  # else the sampled distribution is not the scored one
    "actor_rollout_ref.rollout.top_k": -1,
}


def verl_methods() -> list[str]:
    """The methods verl can carry: those that need nothing but the sampled tokens' log-probs."""
    return [name for name in METHODS if get_method(name).needs == "log_probs"]


def loss_mode(name: str) -> str:
    """The name under which a method is registered with verl."""
    return f"minicppo-{name}" if name in TAKEN else name


def require_verl(config: RunConfig) -> None:
    """Refuse what verl cannot do, or would silently do otherwise.

    Raises:
        ConfigError: one line for each setting, with its way out.
    """
    wrong = [f"engine verl: {text}" for text in _refusals(config)]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _refusals(config: RunConfig) -> list[str]:
    method = get_method(config.method.name, **config.method.params)
    cluster, train, source = config.cluster, config.train, config.model.source
    wrong = []
    if method.needs != "log_probs":
        what = "the likeliest tokens" if method.needs == "topk" else "whole distributions"
        way_out = "--engine trl" if method.needs == "topk" else "--engine local, with a small vocabulary"
        wrong.append(
            f"method {method.name} needs {what} of the rollout policy, of which verl keeps only the sampled token's "
            f"log-prob: use {way_out}, or --method {closest_variant(method.name, 'log_probs')}"
        )
    if source is None or source.startswith("package:") or source.endswith(".gguf"):
        wrong.append(f"model.path = {config.model.path!r} is neither a Hugging Face folder nor hub:OWNER/NAME: set it")
    if config.model.chat is False:
        wrong.append("model.chat = false, but verl always applies the chat template: set model.chat=null")
    if config.warmup is not None:
        wrong.append("warmup is only for policies built from scratch: set warmup=null")
    if config.device == "cpu":
        wrong.append("device = cpu, but it trains on GPUs: set device=auto")
    if train.staleness:
        wrong.append(f"train.staleness = {train.staleness} is only for engine local: set train.staleness=0")
    if config.task.name != "math":
        wrong.append(f"task {config.task.name!r} has no data files and reward for it: use task math, or engine trl")
    if config.rollout.autocast != "same":
        wrong.append(f"rollout.autocast = {config.rollout.autocast}, but vLLM's bfloat16 is its own: set it to same")
    if train.autocast == "off":
        wrong.append("train.autocast = off, but it trains in bfloat16: set train.autocast=auto")
    responses, ranks = config.prompts_per_update * config.rollout.group_size, data_parallel(config)
    if responses % ranks:
        wrong.append(f"{responses} responses an update do not divide among {ranks} data-parallel ranks: fewer GPUs")
    for override in cluster.overrides:
        key, _, value = override.lstrip("+~").partition("=")
        whole = any(name.startswith(f"{key}.") for name in ANCHOR)  # a section at once, perhaps with the anchor's keys
        if whole or (key in ANCHOR and value.lower() != str(ANCHOR[key]).lower()):
            wrong.append(f"cluster.overrides: {override} moves the anchor off the rollout policy: leave {key} out")
        if key.endswith((".policy_loss", ".policy_loss._target_", ".policy_loss.loss_mode", ".policy_loss.params")):
            wrong.append(f"cluster.overrides: {override} names another loss: use --method")
    return wrong


def closest_variant(name: str, *needs: str) -> str:
    """The method of the same family that comes closest in name and needs only what is listed, the first for choice."""
    family = [other for other in METHODS if METHODS[other].family == METHODS[name].family]
    able = [other for need in needs for other in family if get_method(other).needs == need]
    wanted = name.replace("-exact", "-topk") if needs[0] == "topk" else re.sub("-(topk|exact)", "", name)
    for exact in (wanted, name.replace("-exact", "")):
        if exact in able:
            return exact
    return difflib.get_close_matches(name, able, n=1, cutoff=0.0)[0]


def is_megatron(config: RunConfig) -> bool:
    """Whether Megatron trains, not FSDP2."""
    cluster = config.cluster
    return max(cluster.tensor_parallel, cluster.pipeline_parallel, cluster.expert_parallel) > 1


def data_parallel(config: RunConfig) -> int:
    """Ranks that each see other responses."""
    return config.cluster.gpus // (config.cluster.tensor_parallel * config.cluster.pipeline_parallel)


def tokens_per_gpu(config: RunConfig) -> int:
    """Tokens of one packed micro-batch: as many as `train.micro_batch` responses of the greatest length have."""
    rows = config.prompts_per_update * config.rollout.group_size // data_parallel(config)
    longest = config.cluster.max_prompt_tokens + config.max_new_tokens(config.make_task())
    return longest * min(config.train.micro_batch or rows, rows)


def method_params(config: RunConfig) -> dict[str, Any]:
    """Every hyper-parameter of the method, resolved; a padded length is that of the longest response."""
    params = dict(get_method(config.method.name, **config.method.params).params)
    if params.get("length") == "padded":
        params["length"] = config.max_new_tokens(config.make_task())
    return params


def verl_overrides(config: RunConfig, run_dir: Path) -> list[str]:
    """The KEY=VALUE settings of `python -m verl.trainer.main_ppo` for a run.

    Raises:
        ConfigError: see `require_verl`.
    """
    require_verl(config)
    settings = {
        **_data(config, run_dir),
        **_algorithm(config),
        **{f"actor_rollout_ref.actor.{key}": value for key, value in _actor(config).items()},
        **{f"actor_rollout_ref.actor.{key}": value for key, value in _split(config).items()},
        **{f"actor_rollout_ref.rollout.{key}": value for key, value in _rollout(config).items()},
        **_trainer(config, run_dir),
        **ANCHOR,
    }
    engine = ["model_engine=megatron"] if is_megatron(config) else []
    prefixed = (f"{'+' if key in NEW else ''}{key}={render(value)}" for key, value in settings.items())
    return [*engine, *prefixed, *config.cluster.overrides]


POLICY_LOSS = "actor_rollout_ref.actor.policy_loss"
ROUTER = "actor_rollout_ref.actor.megatron.override_transformer_config.moe_router_dtype"
REWARD = "reward.custom_reward_function"
NEW = {f"{POLICY_LOSS}.params", ROUTER}  # keys that verl's own configuration lacks


def _data(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    folder = run_dir.absolute() / "data"
    return {
        "data.train_files": str(folder / "train.parquet"),
        "data.val_files": str(folder / "eval.parquet"),
        "data.train_batch_size": config.rollout.prompts,
        "data.max_prompt_length": config.cluster.max_prompt_tokens,
        "data.max_response_length": config.max_new_tokens(config.make_task()),
        "data.filter_overlong_prompts": True,
        "data.truncation": "error",
        "data.seed": config.seed,
        "actor_rollout_ref.model.path": config.model.source,
        "actor_rollout_ref.model.use_remove_padding": True,
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        f"{REWARD}.path": "pkg://minicppo.rl.grading.reward",
        f"{REWARD}.name": "compute_score",
    }


def _algorithm(config: RunConfig) -> dict[str, Any]:
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": config.train.normalize_std,
        "algorithm.use_kl_in_reward": False,
        "critic.enable": False,
        "algorithm.filter_groups.enable": False,  # groups of equal rewards have advantage 0; they are not refilled
    }


def _actor(config: RunConfig) -> dict[str, Any]:
    train = config.train
    horizon = train.horizon or config.max_new_tokens(config.make_task())
    return {
        "policy_loss._target_": TARGET,
        "policy_loss.loss_mode": loss_mode(config.method.name),
        "policy_loss.params": method_params(config),
        "loss_agg_mode": train.loss_agg_mode,
        "loss_scale_factor": horizon,
        "ppo_mini_batch_size": config.prompts_per_update,  # in prompts: verl multiplies by n
        "ppo_epochs": train.epochs,
        "use_dynamic_bsz": True,
        "ppo_max_token_len_per_gpu": tokens_per_gpu(config),
        "use_kl_loss": False,
        "entropy_coeff": 0,
        "data_loader_seed": config.seed,
        "optim.lr": train.lr,
        # verl's schedule takes a step a rollout batch, ours one an update
        "optim.lr_warmup_steps": -(-train.lr_warmup // (train.minibatches * train.epochs)),
        "optim.weight_decay": train.weight_decay,
        "optim.betas": list(train.betas),
        "optim.clip_grad": train.grad_clip,
    }


def _split(config: RunConfig) -> dict[str, Any]:
    """How the actor is split over GPUs. Megatron: read from verl's example for this model, not run here."""
    cluster = config.cluster
    if not is_megatron(config):
        return {
            "strategy": "fsdp2",
            "fsdp_config.param_offload": cluster.offload,
            "fsdp_config.optimizer_offload": cluster.offload,
        }
    return {
        "megatron.tensor_model_parallel_size": cluster.tensor_parallel,
        "megatron.pipeline_model_parallel_size": cluster.pipeline_parallel,
        "megatron.expert_model_parallel_size": cluster.expert_parallel,
        "megatron.expert_tensor_parallel_size": 1,
        "megatron.param_offload": cluster.offload,
        "megatron.optimizer_offload": cluster.offload,
        "megatron.use_mbridge": True,
        "megatron.override_transformer_config.moe_router_dtype": "fp32",
        "megatron.override_transformer_config.recompute_granularity": "full",
        "megatron.override_transformer_config.recompute_method": "uniform",
        "megatron.override_transformer_config.recompute_num_layers": 1,
    }


def _rollout(config: RunConfig) -> dict[str, Any]:
    cluster, evaluation = config.cluster, config.eval
    return {
        "name": "vllm",
        "n": config.rollout.group_size,
        "temperature": config.rollout.temperature,
        "seed": config.seed,
        "tensor_model_parallel_size": cluster.rollout_tensor_parallel,
        "gpu_memory_utilization": cluster.rollout_memory,
        "val_kwargs.n": evaluation.samples,
        "val_kwargs.temperature": evaluation.temperature,
        "val_kwargs.top_p": evaluation.top_p,
        "val_kwargs.do_sample": True,
    }


def _trainer(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    return {
        "trainer.project_name": "minicppo",
        "trainer.experiment_name": f"{config.name}-{config.method.name}",
        "trainer.logger": ["console"],
        "trainer.nnodes": config.cluster.nodes,
        "trainer.n_gpus_per_node": config.cluster.gpus_per_node,
        "trainer.total_training_steps": config.train.iterations,
        "trainer.total_epochs": config.train.iterations,  # an upper bound: the steps above end the run
        "trainer.test_freq": config.eval.every,
        "trainer.save_freq": config.train.checkpoint_every,
        "trainer.max_actor_ckpt_to_keep": config.train.keep_checkpoints,
        "trainer.default_local_dir": str(run_dir.absolute() / "checkpoints"),
        "trainer.resume_mode": "auto",
    }


def render(value: Any) -> str:
    """A value in Hydra's override grammar.

    >>> render({"delta": 0.15, "ratio_cap": float("inf"), "gate": "hard", "files": ["a b", None, True]})
    "{delta:0.15,ratio_cap:inf,gate:hard,files:['a b',null,true]}"
    """
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{render(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(render, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_/][\w./:@-]*", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
