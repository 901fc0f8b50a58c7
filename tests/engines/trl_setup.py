"""A tiny policy under TRL, and a micro-batch whose rollout policy differs so much that every mask is active."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from minicppo.engines.trl import LOSS_TYPES, CPPOConfig, CPPOTrainer
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, build_policy
from minicppo.rl.rollout import Needs, Rollout
from minicppo.rl.sections import ModelConfig
from minicppo.rl.tasks import make_task
from minicppo.rules import Method, policy_loss

MODEL = ModelConfig(hidden_size=16, intermediate_size=32, layers=2, heads=2)
HORIZON, K, TEMPERATURE = 12, 4, 0.8
CASES = [("cppo", "dapo"), ("cppo-topk", "dr_grpo"), ("pdm", "grpo")]  # of the two-rank tests


def tiny_policy(seed: int = 0) -> Policy:
    """Sharp enough that its tokens differ in probability."""
    policy = build_policy(MODEL, make_task("chain"), seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(3.0)
    return policy


def drifted(policy: Policy, scale: float = 0.1) -> Policy:
    """A copy whose weights are a little off."""
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1 + scale * torch.randn(parameter.shape, generator=generator))
    return other


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
    return CPPOTrainer(
        policy.model,
        reward_funcs=no_reward,
        args=config(folder, **settings),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=policy.tokenizer,
        rollout_func=rollout_func,
    )


def stale_rollout(policy: Policy, rows: int = 4, needs: Needs = "log_probs") -> Rollout:
    """(rows, HORIZON) of random tokens, ragged on both sides, with log-probs and cells of a drifted policy.

    Every fourth row comes from the policy itself, so that rules which reject whole responses keep some.
    """
    generator = torch.Generator().manual_seed(2)
    vocabulary = len(policy.tokenizer)
    prompts = torch.randint(2, vocabulary, (rows, 6), generator=generator)
    prompt_mask = torch.arange(6) >= torch.tensor([0, 3, 1, 2] * (rows // 4))[:, None]
    responses = torch.randint(1, vocabulary, (rows, HORIZON), generator=generator)
    mask = torch.arange(HORIZON) < torch.tensor([HORIZON, 5, 9, 11] * (rows // 4))[:, None]
    empty = torch.zeros(rows, HORIZON)
    ids = None
    rollout = Rollout(prompts * prompt_mask, prompt_mask, responses * mask, mask, empty, None, empty)
    with torch.no_grad():
        parts = [response_log_probs(p, rollout, TEMPERATURE, "full") for p in (drifted(policy), policy)]
    fresh = torch.arange(rows) % 4 == 1
    log_probs = torch.where(fresh[:, None], parts[1].log_probs, parts[0].log_probs)
    cells = torch.where(fresh[:, None, None], parts[1].top_log_probs, parts[0].top_log_probs)
    if needs == "topk":
        cells, ids = cells.topk(K)
    return Rollout(
        rollout.prompt_ids,
        prompt_mask,
        rollout.response_ids,
        mask,
        log_probs * mask,
        ids,
        None if needs == "log_probs" else cells,
    )


ADVANTAGES = torch.tensor([1.0, -0.5, -1.0, 0.75])


def trl_inputs(rollout: Rollout) -> dict[str, Any]:
    """The rollout as TRL's input dictionary."""
    inputs: dict[str, Any] = {
        "prompt_ids": rollout.prompt_ids,
        "prompt_mask": rollout.prompt_mask.long(),
        "completion_ids": rollout.response_ids,
        "completion_mask": rollout.response_mask.long(),
        "advantages": ADVANTAGES,
        "sampling_per_token_logps": rollout.log_probs,
        "old_per_token_logps": torch.full_like(rollout.log_probs, torch.nan),  # must never be read
        "num_items_in_batch": rollout.response_mask.sum(),
    }
    if rollout.top_log_probs is not None:
        inputs["rollout_top_log_probs"] = rollout.top_log_probs
    if rollout.top_ids is not None:
        inputs["rollout_top_ids"] = rollout.top_ids
    return inputs


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reference(
    policy: Policy, rollout: Rollout, method: Method, loss_type: str, advantages: Tensor = ADVANTAGES
) -> tuple[Tensor, dict[str, Tensor], float]:
    """Loss, gradients and masked share by our own scorer and loss, on a copy of the policy."""
    policy = copy.deepcopy(policy)
    scores = response_log_probs(policy, rollout, TEMPERATURE, method.needs)  # type: ignore[arg-type]
    batch = replace(rollout, advantages=advantages).token_batch(scores.log_probs, scores.top_log_probs)
    out = method(batch)
    loss = policy_loss(
        scores.log_probs,
        out.weight,
        batch.advantages,
        batch.mask,
        loss_agg_mode=LOSS_TYPES[loss_type],
        horizon=HORIZON,
    )
    loss.backward()
    masked = float((batch.mask & ~out.token_mask).sum() / batch.mask.sum())
    return loss.detach(), gradients(policy.model), masked


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Every entry within 1e-5 of itself plus 1e-5 of the largest."""
    assert found.keys() == wanted.keys()
    scale = float(max(value.abs().max() for value in wanted.values()))
    for name, value in wanted.items():
        close = torch.allclose(found[name], value, rtol=1e-5, atol=1e-5 * scale)
        assert close, f"{name}: {(found[name] - value).abs().max()} apart, largest gradient {scale}"
