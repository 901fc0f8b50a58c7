"""Our configuration as TRL's settings: a pure function that needs no TRL, so that a plan shows what a run would set."""

from pathlib import Path
from typing import Any

import torch
import yaml

from minicppo.engines.tables import longest_response, micro_batches
from minicppo.rl.config import RunConfig
from minicppo.rl.settings_file import check_values, parse_yaml

PIN = ">=1.10,!=1.11.*,!=1.15.*,<1.17"  # the adapter overrides methods inside GRPOTrainer; 1.15 needs Triton
# TRL's aggregations and ours. Its cispo, sapo and vespo are these again with a token weight of their own.
LOSS_TYPES = {
    "dapo": "token-mean",  # over the rollout's tokens per update, counted on all processes
    "bnpo": "token-mean",  # over each micro-batch's own tokens
    "grpo": "seq-mean-token-mean",
    "luspo": "seq-mean-token-sum",
    "dr_grpo": "seq-mean-token-sum-norm",  # the horizon is max_completion_length
}
LOSS_TYPE_OF = {mode: name for name, mode in reversed(LOSS_TYPES.items())}


def trl_settings(config: RunConfig, run_dir: Path, processes: int) -> dict[str, Any]:
    """Fields of `CPPOConfig`: one rollout of prompts x group_size responses, minibatches x epochs updates with it."""
    train, rollout = config.train, config.rollout
    _, rows, accumulation = micro_batches(config, processes)
    updates = train.minibatches * train.epochs
    return {
        "output_dir": str(run_dir / "trl"),
        "method": config.method.name,
        "method_params": dict(config.method.params),
        "top_log_probs": rollout.top_log_probs,
        "rollout_batch": rollout.batch,
        "loss_type": LOSS_TYPE_OF[train.loss_agg_mode],
        "scale_rewards": "group" if train.normalize_std else "none",
        "num_generations": rollout.group_size,
        "max_completion_length": longest_response(config),
        "temperature": rollout.temperature,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": train.minibatches * accumulation,
        "num_iterations": train.epochs,
        "max_steps": train.iterations * updates,
        "shuffle_dataset": False,  # the problems are drawn in order, as the local trainer draws them
        "learning_rate": train.lr,
        "max_grad_norm": train.grad_clip,
        "gradient_checkpointing": config.model.path is not None,
        "bf16": config.autocast_dtype() is torch.bfloat16,
        "seed": config.seed,
        "use_cpu": config.resolved_device().type == "cpu",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": train.checkpoint_every * updates,
        "save_total_limit": None,  # `RunLog` removes old checkpoints, once the new one is whole
        "report_to": [board for board in config.log if board != "files"] or "none",
        "disable_tqdm": True,
        "ddp_timeout": 24 * 3600,  # while the first process evaluates, the others wait
        **dict(map(_override, config.cluster.overrides)),
    }


def _override(text: str) -> tuple[str, Any]:
    """A setting of TRL's own, in the YAML that its own files are in; within the limits of all settings."""
    key, _, value = text.partition("=")
    check_values(parse_yaml(value), f"cluster.overrides: {key}")
    return key, yaml.safe_load(value)
