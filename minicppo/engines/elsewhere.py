"""A run as the configuration file of an engine that only its own command starts: prime-rl, SkyRL, NeMo-RL.

Read from their sources (prime-rl 559b447, SkyRL a956457, NeMo-RL 7ea279a, August 2026) and not run here. The loss is
ours, tested on each engine's own layout; problems, prompts and grading stay the engine's.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from minicppo.engines.samples import engine_method
from minicppo.engines.split import is_megatron, longest_response
from minicppo.rl.config import RunConfig
from minicppo.rules import LOSS_AGG_MODES

Settings = dict[str, Any]
SCHEDULER = "torch.optim.lr_scheduler"
NOT_OURS = "# Problems, prompts and grading are {engine}'s own: {what}."


@dataclass(frozen=True)
class Target:
    """An engine: the name of its file, what starts it in its own clone, what it can average over, and its text."""

    file: str
    command: str
    modes: tuple[str, ...]
    like: dict[str, bool]  # see `engine_method`
    text: Callable[[RunConfig], str]


def refusals_elsewhere(config: RunConfig, engine: str) -> list[str]:
    """Why one of `TARGETS` cannot carry the run, one line each with its way out."""
    return [f"engine {engine}: {row}" for row in _refusals(config, engine)]


def _refusals(config: RunConfig, engine: str) -> Iterator[str]:
    train, cluster, modes = config.train, config.cluster, TARGETS[engine].modes
    try:
        engine_method(config.method.name, _params(config), config.plugins, **TARGETS[engine].like)
    except ValueError as error:
        yield str(error)
    if config.task.name != "math":
        yield f"task {config.task.name!r} has no counterpart there: use task math"
    if config.model.source is None or config.model.source.startswith("package:"):
        yield f"model.path = {config.model.path!r} is neither a Hugging Face folder nor hub:OWNER/NAME: set it"
    if config.warmup is not None:
        yield "warmup is only for policies built from scratch: set warmup=null"
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


def _sizes(config: RunConfig) -> tuple[int, int, int, int]:
    """Responses an update, updates a rollout batch, the longest response and the longest sequence, in tokens."""
    longest, responses = longest_response(config), config.prompts_per_update * config.rollout.group_size
    return (
        responses,
        config.train.minibatches * config.train.epochs,
        longest,
        config.cluster.max_prompt_tokens + longest,
    )


def _params(config: RunConfig) -> Settings:
    correction = {key: value for key, value in config.method.params.items() if key == "correction"}
    return correction | dict(sorted(config.make_method().params.items()))


def _loss(config: RunConfig) -> Settings:
    named: Settings = {"method": config.method.name, "params": _params(config)}
    return named | ({"plugins": config.plugins} if config.plugins else {})


def _vllm(config: RunConfig) -> Settings:
    cluster = config.cluster
    return {"tensor_parallel_size": cluster.rollout_tensor_parallel, "gpu_memory_utilization": cluster.rollout_memory}


def prime_rl(config: RunConfig) -> str:
    """`rl.toml`. prime-rl is asynchronous: updates of one rollout batch become steps that are that much off-policy."""
    (responses, updates, longest, sequence), train, cluster = _sizes(config), config.train, config.cluster
    group, temperature, (beta1, beta2) = config.rollout.group_size, config.rollout.temperature, train.betas
    optimizer = {"type": "adamw", "lr": train.lr, "weight_decay": train.weight_decay, "max_norm": train.grad_clip}
    agent = {"env.agent.harness.id": "null", "env.agent.runtime.type": "subprocess"}
    sections: dict[str, Settings] = {
        "": {"max_steps": train.iterations * updates, "seq_len": sequence},
        "model": {"name": config.model.source},
        "deployment": {"num_train_gpus": cluster.gpus // 2, "num_infer_gpus": cluster.gpus - cluster.gpus // 2},
        "ckpt": {"interval": train.checkpoint_every * updates, "keep_last": train.keep_checkpoints},
        "trainer.loss": {"type": "custom", "import_path": "minicppo.engines.prime_rl.loss", "kwargs": _loss(config)},
        "trainer.optim": {**optimizer, "betas1": beta1, "betas2": beta2},
        "orchestrator": {"batch_size": responses, "group_size": group, "max_off_policy_steps": updates - 1},
        "orchestrator.train.sampling": {"temperature": temperature, "max_completion_tokens": longest},
        "[orchestrator.train.source]": {"name": "math", "env.taskset.id": "i3_math", **agent},
        "inference.vllm": _vllm(config),
    }
    lines = [NOT_OURS.format(engine="prime-rl", what="[[orchestrator.train.source]] names an environment")]
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


def skyrl(config: RunConfig) -> str:
    """`skyrl.sh`: SkyRL takes its settings on the command line."""
    (_, _, longest, _), train, cluster, rollout = _sizes(config), config.train, config.cluster, config.rollout
    reduction = {"token-mean": "token_mean", "seq-mean-token-mean": "sequence_mean"}.get(train.loss_agg_mode)
    loss = _loss(config)
    settings: Settings = {
        "trainer.override_entrypoint": "minicppo.engines.skyrl",
        "trainer.algorithm.policy_loss_type": f"minicppo-{loss.pop('method')}",
        **{f"minicppo.{key}": json.dumps(value) for key, value in loss.items()},
        "trainer.algorithm.advantage_estimator": "grpo",
        "trainer.algorithm.grpo_norm_by_std": train.normalize_std,
        "trainer.algorithm.use_kl_loss": False,
        "trainer.algorithm.loss_reduction": reduction or "seq_mean_token_sum_norm",
        **({} if reduction else {"trainer.algorithm.max_seq_len": config.horizon}),
        "trainer.policy.model.path": config.model.source,
        "trainer.policy.optimizer_config.lr": train.lr,
        "trainer.policy.optimizer_config.weight_decay": train.weight_decay,
        "trainer.policy.optimizer_config.adam_betas": list(train.betas),
        "trainer.policy.optimizer_config.max_grad_norm": train.grad_clip,
        "trainer.policy.optimizer_config.num_warmup_steps": train.lr_warmup,
        "trainer.placement.policy_num_nodes": cluster.nodes,
        "trainer.placement.policy_num_gpus_per_node": cluster.gpus_per_node,
        "trainer.train_batch_size": rollout.prompts,
        "trainer.policy_mini_batch_size": config.prompts_per_update,
        "trainer.update_epochs_per_batch": train.epochs,
        "trainer.micro_train_batch_size_per_gpu": train.micro_batch or 1,
        "trainer.max_prompt_length": cluster.max_prompt_tokens,
        "trainer.max_training_steps": train.iterations,
        "trainer.eval_interval": config.eval.every,
        "trainer.ckpt_interval": train.checkpoint_every,
        "trainer.max_ckpts_to_keep": train.keep_checkpoints,
        "trainer.seed": config.seed,
        "generator.n_samples_per_prompt": rollout.group_size,
        "generator.sampling_params.max_generate_length": longest,
        "generator.sampling_params.temperature": rollout.temperature,
        "generator.sampling_params.logprobs": 1,
        "generator.inference_engine.num_engines": cluster.gpus // cluster.rollout_tensor_parallel,
        **{f"generator.inference_engine.{key}": value for key, value in _vllm(config).items()},
    }
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    head = ["#!/bin/sh", NOT_OURS.format(engine="SkyRL", what='add data.train_data and environment.env_class as "$@"')]
    lines = [f"  {shlex.quote(f'{key}={value}')} \\" for key, value in values.items()]
    return "\n".join([*head, "exec python -m skyrl.train.entrypoints.main_base \\", *lines, '  "$@"']) + "\n"


def nemo_rl(config: RunConfig) -> str:
    """`minicppo.yaml`, upon NeMo-RL's own example of GRPO on mathematics."""
    (responses, _, longest, sequence), train, rollout = _sizes(config), config.train, config.rollout
    warmup = max(train.lr_warmup, 1)  # of 1 step: none
    linear = {"name": f"{SCHEDULER}.LinearLR", "kwargs": {"start_factor": 1 / warmup, "total_iters": warmup}}
    constant = {"name": f"{SCHEDULER}.ConstantLR", "kwargs": {"factor": 1.0, "total_iters": 10**10}}
    adamw = {"lr": train.lr, "weight_decay": train.weight_decay, "betas": list(train.betas)}
    averaged = {"loss_agg_mode": train.loss_agg_mode, "horizon": config.horizon}
    settings: Settings = {
        "defaults": "grpo_math_1B.yaml",
        "grpo": {
            "num_prompts_per_step": rollout.prompts,
            "num_generations_per_prompt": rollout.group_size,
            "max_num_steps": train.iterations,
            "max_num_epochs": train.iterations,  # an upper bound: the steps above end the run
            "normalize_rewards": train.normalize_std,
            "use_leave_one_out_baseline": False,
            "val_period": config.eval.every,
            "seed": config.seed,
        },
        "loss_fn": {"reference_policy_kl_penalty": 0.0, **_loss(config), **averaged},
        "checkpointing": {"save_period": train.checkpoint_every, "keep_top_k": train.keep_checkpoints},
        "policy": {
            "model_name": config.model.source,
            "train_global_batch_size": responses,
            "train_micro_batch_size": train.micro_batch or 1,
            "max_total_sequence_length": sequence,
            "max_grad_norm": train.grad_clip,
            "optimizer": {"kwargs": adamw},
            "scheduler": [linear, constant, {"milestones": [warmup]}],
            "generation": {"temperature": rollout.temperature, "max_new_tokens": longest, "vllm_cfg": _vllm(config)},
        },
        "cluster": {"gpus_per_node": config.cluster.gpus_per_node, "num_nodes": config.cluster.nodes},
    }
    head = NOT_OURS.format(engine="NeMo-RL", what="set data.train and env")
    return f"{head}\n{yaml.safe_dump(settings, sort_keys=False)}"


NEMO_COMMAND = "python -m minicppo.engines.nemo_rl examples/run_grpo.py --config examples/configs/minicppo.yaml"
SKYRL_MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
TARGETS = {
    "prime-rl": Target("rl.toml", "uv run rl @ rl.toml", ("token-mean",), {"alone": True}, prime_rl),
    "skyrl": Target("skyrl.sh", "sh skyrl.sh", SKYRL_MODES, {"old": True, "divided": True}, skyrl),
    "nemo-rl": Target("minicppo.yaml", NEMO_COMMAND, LOSS_AGG_MODES, {"old": True, "alone": True}, nemo_rl),
}
