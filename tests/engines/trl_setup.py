"""The tiny policy and its stale rollout under TRL; and names of features, on the tests that show them.

`docs.tools.features` makes the table of docs/drop-in.md of those names: a test is decorated with
`@feature(name, verdict)`, a case of one made by `works(name, ...)` or `refused(name, ...)`.
"""

import os
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from minicppo.engines.trl import CPPOConfig, CPPOTrainer
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Rollout
from minicppo.rl.tasks import make_task
from tests.engines.stale import ADVANTAGES, HORIZON, TEMPERATURE, K

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # warnings are errors here
rng = random.Random(0)
PROBLEMS = Dataset.from_dict({"prompt": [make_task("chain", steps=n).problem(rng).prompt for n in (1, 3, 2, 4)]})
feature = pytest.mark.feature


def works(name: str, *values: Any, marks: Any = ()) -> Any:
    """A case that trains rightly."""
    return pytest.param(*values, id=name, marks=[feature(name, "works"), *marks])


def refused(name: str, *values: Any) -> Any:
    """A case that ends in an error with the way out."""
    return pytest.param(*values, id=name, marks=feature(name, "refused"))


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


def trainer_of(policy: Policy, folder: Path, **given: Any) -> CPPOTrainer:
    """given: settings, and arguments of the trainer; `rule`, a method that is no name."""
    known = {field.name for field in fields(CPPOConfig)}
    settings = {name: given.pop(name) for name in known & given.keys()}
    arguments = {"reward_funcs": no_reward, "train_dataset": PROBLEMS, "processing_class": policy.tokenizer, **given}
    if "rule" in arguments:
        arguments["method"] = arguments.pop("rule")
    return CPPOTrainer(policy.model, args=config(folder, **settings), **arguments)


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
