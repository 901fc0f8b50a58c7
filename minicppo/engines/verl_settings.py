"""A run's configuration as settings of verl 0.9.1: a pure function, checked by verl's own validation in the tests.

Read from verl's source and not run here: everything of vLLM and Megatron.
"""

import re
from pathlib import Path
from typing import Any

from minicppo.engines.refusals import ANCHOR, VERL, require_carried
from minicppo.engines.split import is_megatron, longest_response, tokens_per_gpu
from minicppo.rl.config import RunConfig
from minicppo.rules import METHODS

PIN = ">=0.9.1,<0.10"
TAKEN = ("cispo", "dro", "gspo", "sapo")  # names of losses of verl's own; ours stand beside them
ROUTER = "actor_rollout_ref.actor.megatron.override_transformer_config.moe_router_dtype"
POLICY_LOSS = "actor_rollout_ref.actor.policy_loss"
# keys that verl's own configuration lacks
NEW = {*(f"{POLICY_LOSS}.{name}" for name in ("params", "plugins", "record")), ROUTER}


def verl_methods() -> list[str]:
    """The methods verl can carry: those that need nothing but the sampled tokens' log-probs under two policies."""
    return [name for name, method in METHODS.items() if method.needs == "log_probs" and not method.corrects]


def loss_mode(name: str) -> str:
    """The name under which a method is registered with verl."""
    return f"minicppo-{name}" if name in TAKEN else name


def verl_overrides(config: RunConfig, run_dir: Path) -> list[str]:
    """The KEY=VALUE settings of `python -m verl.trainer.main_ppo` for a run.

    Raises:
        ConfigError: what verl cannot carry, with the ways out.
    """
    require_carried(config.model_copy(update={"engine": "verl"}))
    megatron = is_megatron(config.cluster)
    settings = {**VERL["settings"], **_settings(config, run_dir.absolute()), **(VERL["megatron"] if megatron else {})}
    rendered = [f"{'+' * (key in NEW)}{key}={render(value)}" for key, value in (settings | ANCHOR).items()]
    return [*(["model_engine=megatron"] if megatron else []), *rendered, *config.cluster.overrides]


def _settings(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    train, rollout, evaluation, cluster = config.train, config.rollout, config.eval, config.cluster
    actor, sampler, horizon = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", longest_response(config)
    split: dict[str, Any] = {
        "megatron.tensor_model_parallel_size": cluster.tensor_parallel,
        "megatron.pipeline_model_parallel_size": cluster.pipeline_parallel,
        "megatron.expert_model_parallel_size": cluster.expert_parallel,
    }
    boards = [name for name in config.log if name != "files"]
    trainer, split = ("megatron", split) if is_megatron(cluster) else ("fsdp_config", {"strategy": "fsdp2"})
    return {
        "data.train_files": str(run_dir / "data" / "train.parquet"),
        "data.val_files": str(run_dir / "data" / "eval.parquet"),
        "data.train_batch_size": rollout.prompts,
        "data.max_prompt_length": cluster.max_prompt_tokens,
        "data.max_response_length": horizon,
        "data.seed": config.seed,
        "actor_rollout_ref.model.path": config.model.source,
        "algorithm.norm_adv_by_std_in_grpo": train.normalize_std,
        f"{POLICY_LOSS}.loss_mode": loss_mode(config.method.name),
        f"{POLICY_LOSS}.params": dict(sorted(config.make_method().params.items())),
        **({f"{POLICY_LOSS}.plugins": config.plugins} if config.plugins else {}),
        f"{actor}.loss_agg_mode": train.loss_agg_mode,
        f"{actor}.loss_scale_factor": config.horizon,
        f"{actor}.ppo_mini_batch_size": config.prompts_per_update,  # in prompts: verl multiplies by n
        f"{actor}.ppo_epochs": train.epochs,
        f"{actor}.ppo_max_token_len_per_gpu": tokens_per_gpu(config),
        f"{actor}.data_loader_seed": config.seed,
        f"{actor}.optim.lr": train.lr,
        # verl's schedule takes a step a rollout batch, ours one an update
        f"{actor}.optim.lr_warmup_steps": -(-train.lr_warmup // (train.minibatches * train.epochs)),
        f"{actor}.optim.weight_decay": train.weight_decay,
        f"{actor}.optim.betas": list(train.betas),
        f"{actor}.optim.clip_grad": train.grad_clip,
        **{f"{actor}.{key}": value for key, value in split.items()},
        f"{actor}.{trainer}.param_offload": cluster.offload,
        f"{actor}.{trainer}.optimizer_offload": cluster.offload,
        f"{sampler}.n": rollout.group_size,
        f"{sampler}.temperature": rollout.temperature,
        f"{sampler}.seed": config.seed,
        f"{sampler}.tensor_model_parallel_size": cluster.rollout_tensor_parallel,
        f"{sampler}.gpu_memory_utilization": cluster.rollout_memory,
        f"{sampler}.val_kwargs.n": evaluation.samples,
        f"{sampler}.val_kwargs.temperature": evaluation.temperature,
        f"{sampler}.val_kwargs.top_p": evaluation.top_p,
        "trainer.experiment_name": f"{config.name}-{config.method.name}",
        "trainer.nnodes": cluster.nodes,
        "trainer.n_gpus_per_node": cluster.gpus_per_node,
        "trainer.total_training_steps": train.iterations,
        "trainer.total_epochs": train.iterations,  # an upper bound: the steps above end the run
        "trainer.test_freq": evaluation.every,
        "trainer.save_freq": train.checkpoint_every,
        "trainer.max_actor_ckpt_to_keep": train.keep_checkpoints,
        "trainer.default_local_dir": str(run_dir / "checkpoints"),
        **({"trainer.logger": ["console", *boards]} if boards else {}),
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
