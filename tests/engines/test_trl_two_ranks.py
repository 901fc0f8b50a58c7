"""Two processes (gloo, on the CPU) make the loss and gradients of one: under DDP and FSDP2, with active masks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.engines.trl import LOSS_TYPES
from minicppo.inspect import inspect
from minicppo.rules import get_method, group_advantages
from tests.engines.stale import assert_close, reference, stale_rollout, tiny_policy, torchrun
from tests.engines.trl_setup import CASES, feature, no_reward


@feature("two processes: DDP", "works")
@feature("two processes: FSDP2 with a `rollout_func`", "works")
@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    torchrun(2, "-m", "tests.engines.trl_worker", str(tmp_path), ACCELERATE_USE_CPU="true")
    for name, loss_type in CASES:
        policy, method = tiny_policy(), get_method(name)
        rollout = stale_rollout(policy, rows=8, needs=method.needs)
        rewards = no_reward([[0] * n for n in rollout.response_mask.sum(1).tolist()])
        advantages = group_advantages(torch.tensor(rewards), 2).advantages
        loss, wanted, masked = reference(policy, rollout, method, LOSS_TYPES[loss_type], advantages)
        assert masked > 0.04, "the mask is idle"
        for engine in ("ddp", "fsdp2"):
            logs = json.loads((tmp_path / f"{engine}-{name}.json").read_text())
            assert logs["mask/frac"] == pytest.approx(masked, rel=1e-5)
            assert logs["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
            assert_close(load_file(tmp_path / f"{engine}-{name}.safetensors"), wanted)
    recorded = inspect([tmp_path / "log"]).report
    assert [Path(file).name for file in recorded["files"]] == [f"step_00000000-rank_{rank}.parquet" for rank in (0, 1)]
    assert recorded["masked"] == pytest.approx(json.loads((tmp_path / "ddp-cppo.json").read_text())["mask/frac"])
