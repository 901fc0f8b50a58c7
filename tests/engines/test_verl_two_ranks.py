"""verl's FSDP2 engine on two gloo ranks takes the step of one rank and of our own loss, with an active mask."""

import json

import pytest
from safetensors.torch import load_file, save_file

from minicppo.rl.policy import save_policy
from minicppo.rules import get_method
from tests.engines.stale import (
    ADVANTAGES,
    HORIZON,
    ROOT,
    assert_close,
    reference,
    stale_rollout,
    tiny_policy,
    torchrun,
)

pytest.importorskip("verl", reason="verl is not installed: pip install -c constraints-verl.txt -e '.[verl]'")
MODE, PARAMS = "seq-mean-token-sum-norm", {"delta": 0.05, "delta_b": 0.005}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_number_of_ranks_takes_the_step_of_the_reference(tmp_path):
    policy, advantages = tiny_policy(), ADVANTAGES.repeat(2)
    rollout = stale_rollout(policy, rows=8)
    loss, gradients, masked = reference(policy, rollout, get_method("cppo", **PARAMS), MODE, advantages)
    assert 0.03 < masked < 0.97, "the mask must be active"
    save_policy(policy, tmp_path / "policy")
    (tmp_path / "case.json").write_text(json.dumps({"name": "cppo", "mode": MODE, "horizon": HORIZON, **PARAMS}))
    tensors = {
        "prompt_ids": rollout.prompt_ids,
        "prompt_mask": rollout.prompt_mask.long(),
        "response_ids": rollout.response_ids,
        "response_mask": rollout.response_mask.long(),
        "log_probs": rollout.log_probs,
        "advantages": advantages,
    }
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "rollout.safetensors")
    for ranks in (1, 2):
        torchrun(ranks, str(ROOT / "tests/engines/verl_worker.py"), str(tmp_path))
        metrics = json.loads((tmp_path / f"{ranks}.json").read_text())
        assert metrics["sharded"] == metrics["parameters"]
        assert metrics["actor/pg_loss"] == pytest.approx(float(loss), abs=1e-5)
        assert_close(load_file(tmp_path / f"{ranks}.safetensors"), gradients)
