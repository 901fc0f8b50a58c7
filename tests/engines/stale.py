"""A tiny policy, and a micro-batch whose rollout policy differs so much that every mask is active."""

import copy
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, build_policy
from minicppo.rl.rollout import Needs, Rollout
from minicppo.rl.sections import ModelConfig
from minicppo.rl.tasks import make_task
from minicppo.rules import Method, policy_loss

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelConfig(hidden_size=16, intermediate_size=32, layers=2, heads=2)
HORIZON, K, TEMPERATURE = 12, 4, 0.8
ADVANTAGES = torch.tensor([1.0, -0.5, -1.0, 0.75])


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


def stale_rollout(policy: Policy, rows: int = 4, needs: Needs = "log_probs") -> Rollout:
    """(rows, HORIZON) of random tokens, ragged on both sides, with log-probs of a drifted policy; also Top-K or all.

    Every fourth row comes from the policy itself, so that rules which reject whole responses keep some.
    """
    generator = torch.Generator().manual_seed(2)
    vocabulary = len(policy.tokenizer)
    prompts = torch.randint(2, vocabulary, (rows, 6), generator=generator)
    prompt_mask = torch.arange(6) >= torch.tensor([0, 3, 1, 2] * (rows // 4))[:, None]
    responses = torch.randint(1, vocabulary, (rows, HORIZON), generator=generator)
    mask = torch.arange(HORIZON) < torch.tensor([HORIZON, 5, 9, 11] * (rows // 4))[:, None]
    empty = torch.zeros(rows, HORIZON)
    asked = Rollout(prompts * prompt_mask, prompt_mask, responses * mask, mask, empty, None, empty)
    with torch.no_grad():
        stale, own = (response_log_probs(p, asked, TEMPERATURE, "full") for p in (drifted(policy), policy))
    fresh = torch.arange(rows)[:, None] % 4 == 1
    log_probs = torch.where(fresh, own.log_probs, stale.log_probs) * mask
    top, ids = torch.where(fresh[..., None], own.top_log_probs, stale.top_log_probs), None
    if needs == "topk":
        top, ids = top.topk(K)
    kept = None if needs == "log_probs" else top
    return Rollout(asked.prompt_ids, prompt_mask, asked.response_ids, mask, log_probs, ids, kept)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reference(
    policy: Policy, rollout: Rollout, method: Method, mode: str, advantages: Tensor = ADVANTAGES
) -> tuple[Tensor, dict[str, Tensor], float]:
    """Loss, gradients and masked share by our own scorer and loss, on a copy of the policy."""
    policy = copy.deepcopy(policy)
    found = response_log_probs(policy, rollout, TEMPERATURE, method.needs)
    batch = replace(rollout, advantages=advantages).token_batch(found.log_probs, found.top_log_probs)
    out = method(batch)
    loss = policy_loss(found.log_probs, out.weight, batch.advantages, batch.mask, loss_agg_mode=mode, horizon=HORIZON)
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


def torchrun(ranks: int, *program: str, **variables: str) -> None:
    """Run a program on several ranks of this machine, to its end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [*command, "--master_port", port, *program], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-12000:]
