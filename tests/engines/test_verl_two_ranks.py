"""verl's FSDP2 engine on two gloo ranks takes the step of one rank and of the reference, with an active mask."""

from __future__ import annotations

import copy
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, build_policy, save_policy
from minicppo.rl.rollout import Rollout
from minicppo.rl.sections import ModelConfig
from minicppo.rl.tasks import make_task
from minicppo.rules import get_method
from tests.engines.verl_setup import HORIZON, Sample, reference_of

ROOT = Path(__file__).resolve().parents[2]
METHOD, MODE, TEMPERATURE = "cppo", "seq-mean-token-sum-norm", 0.8
ADVANTAGES = torch.tensor([1.0, -0.5, -1.0, 0.75, 0.5, -0.25, 0.6, -0.9])


def policies() -> tuple[Policy, Policy]:
    """A tiny policy whose tokens differ in probability, and the one it has drifted away from."""
    policy = build_policy(ModelConfig(hidden_size=16, intermediate_size=32, heads=2), make_task("chain"), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(3.0)
    before = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in before.model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return policy, before


def stale_rollout(policy: Policy, before: Policy) -> Rollout:
    """Eight responses of random tokens, ragged on both sides, with the log-probs of the policy from before."""
    generator, rng = torch.Generator().manual_seed(2), random.Random(3)
    size = len(policy.tokenizer)
    prompt_mask = torch.arange(6) >= torch.tensor([rng.randrange(5) for _ in range(8)])[:, None]
    mask = torch.arange(HORIZON) < torch.tensor([HORIZON, 5, 19, 31, 1, 12, 26, 8])[:, None]
    prompts = torch.randint(2, size, (8, 6), generator=generator) * prompt_mask
    responses = torch.randint(1, size, (8, HORIZON), generator=generator) * mask
    empty = torch.zeros(8, HORIZON)
    rollout = Rollout(prompts, prompt_mask, responses, mask, empty, None, None)
    with torch.no_grad():
        log_probs = response_log_probs(before, rollout, TEMPERATURE).log_probs
    return Rollout(prompts, prompt_mask, responses, mask, log_probs.detach() * mask, None, None)


def reference(policy: Policy, rollout: Rollout) -> tuple[float, dict[str, Tensor], float]:
    """Loss, gradients and masked share: the reference's loops on log-probs of our scorer."""
    log_probs = response_log_probs(policy, rollout, TEMPERATURE).log_probs
    lengths = rollout.response_mask.sum(1).tolist()
    data = Sample(
        [row[:n].detach().double() for row, n in zip(log_probs, lengths, strict=True)],
        [row[:n].double() for row, n in zip(rollout.log_probs, lengths, strict=True)],
        [a.double().expand(n) for a, n in zip(ADVANTAGES, lengths, strict=True)],
        [torch.ones(n, dtype=torch.bool) for n in lengths],
    )
    loss, gradients, masked = reference_of(data, get_method(METHOD), MODE)
    padded = torch.zeros_like(log_probs)
    for row, gradient in zip(padded, gradients, strict=True):
        row[: len(gradient)] = gradient.float()
    (log_probs * padded).sum().backward()
    return loss, {name: p.grad for name, p in policy.model.named_parameters()}, masked  # type: ignore[misc]


def step(folder: Path, ranks: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
    command += ["--master_port", port, str(ROOT / "tests/engines/verl_worker.py"), str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-12000:]
    found = folder / f"{METHOD}-{ranks}"
    return json.loads(found.with_suffix(".json").read_text()), load_file(found.with_suffix(".safetensors"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_number_of_ranks_takes_the_step_of_the_reference(ranks: int, tmp_path: Path) -> None:
    policy, before = policies()
    rollout = stale_rollout(policy, before)
    save_policy(policy, tmp_path / "policy")
    (tmp_path / "case.json").write_text(json.dumps({"method": METHOD, "mode": MODE, "temperature": TEMPERATURE}))
    tensors = {
        "prompt_ids": rollout.prompt_ids,
        "prompt_mask": rollout.prompt_mask.long(),
        "response_ids": rollout.response_ids,
        "response_mask": rollout.response_mask.long(),
        "log_probs": rollout.log_probs,
        "advantages": ADVANTAGES,
    }
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "rollout.safetensors")
    loss, gradients, masked = reference(policy, rollout)
    assert 0.03 < masked < 0.97, "the mask must be active"
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    metrics, found = step(tmp_path, ranks)
    assert metrics["sharded"] == metrics["parameters"]
    assert metrics["actor/pg_loss"] == pytest.approx(loss, abs=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * scale)
