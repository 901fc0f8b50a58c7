"""Two processes (gloo, on the CPU) make the loss and gradients of one: under DDP and FSDP2, with active masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.rules import get_method, group_advantages
from tests.engines.trl_setup import CASES, assert_close, no_reward, reference, stale_rollout, tiny_policy

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_two_ranks_are_one(engine: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    command += ["-m", "tests.engines.trl_worker", str(tmp_path), engine]
    variables = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, loss_type in CASES:
        policy, method = tiny_policy(), get_method(name)
        rollout = stale_rollout(policy, rows=8, needs=method.needs)
        lengths = rollout.response_mask.sum(1).tolist()
        rewards = torch.tensor(no_reward([[0] * n for n in lengths]))
        advantages = group_advantages(rewards, 2).advantages
        loss, wanted, masked = reference(policy, rollout, method, loss_type, advantages)
        logs = json.loads((tmp_path / f"{name}-{loss_type}.json").read_text())
        assert masked > 0.04, "the mask is idle"
        assert logs["mask/frac"] == pytest.approx(masked, rel=1e-5)
        assert logs["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
        assert_close(load_file(tmp_path / f"{name}-{loss_type}.safetensors"), wanted)


def free_port() -> str:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
