"""The tiny policy and its stale rollout under TRL."""

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from minicppo.engines.trl import CPPOConfig, CPPOTrainer
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Rollout
from minicppo.rl.tasks import make_task
from tests.engines.stale import ADVANTAGES, HORIZON, TEMPERATURE, K, gradients, stale_rollout, tiny_policy

__all__ = ["ADVANTAGES", "config", "gradients", "no_reward", "stale_rollout", "tiny_policy", "trainer_of", "trl_inputs"]
CASES = [("cppo", "dapo"), ("cppo-topk", "dr_grpo"), ("pdm", "grpo")]  # of the two-rank tests


def no_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids) % 3) for ids in completion_ids]


def config(folder: Path, **settings: Any) -> CPPOConfig:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "top_log_probs": K,
        "temperature": TEMPERATURE,
        "num_generations": 2,
        "max_completion_length": HORIZON,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return CPPOConfig(**{**defaults, **settings})


def trainer_of(policy: Policy, folder: Path, *, rollout_func: Any = None, **settings: Any) -> CPPOTrainer:
    rng = random.Random(0)
    prompts = [make_task("chain", steps=n).problem(rng).prompt for n in (1, 3, 2, 4)]
    data = Dataset.from_dict({"prompt": prompts})
    return CPPOTrainer(
        policy.model,
        reward_funcs=no_reward,
        args=config(folder, **settings),
        train_dataset=data,
        eval_dataset=data,
        processing_class=policy.tokenizer,
        rollout_func=rollout_func,
    )


def top_inputs(rollout: Rollout) -> dict[str, torch.Tensor]:
    top = {"rollout_top_log_probs": rollout.top_log_probs, "rollout_top_ids": rollout.top_ids}
    return {name: value for name, value in top.items() if value is not None}


def trl_inputs(rollout: Rollout) -> dict[str, Any]:
    """The rollout as TRL's input dictionary."""
    return {
        "prompt_ids": rollout.prompt_ids,
        "prompt_mask": rollout.prompt_mask.long(),
        "completion_ids": rollout.response_ids,
        "completion_mask": rollout.response_mask.long(),
        "advantages": ADVANTAGES,
        "sampling_per_token_logps": rollout.log_probs,
        "old_per_token_logps": torch.full_like(rollout.log_probs, torch.nan),  # must never be read
        "num_items_in_batch": rollout.response_mask.sum(),
        **top_inputs(rollout),
    }
