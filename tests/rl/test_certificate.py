"""The certificate's feed: nothing to certify without an update, and the same whatever the rows per forward pass."""

from dataclasses import replace

import pytest
import torch

from minicppo.rl.config import load_config
from minicppo.rl.sampling import sample
from minicppo.rl.trainer import certificate_row


@pytest.mark.parametrize("needs", ["log_probs", "full"])
def test_an_unchanged_policy_has_no_gain_and_a_changed_one_the_same_in_parts(policy, ragged_prompts, needs):
    rollout = sample(policy, ragged_prompts, 12, 1.0, torch.Generator().manual_seed(0), needs, samples=6)
    rewards = (torch.arange(24) % 3 == 0).double()
    rollout = replace(rollout, rewards=rewards, advantages=rewards.float())
    whole, parts = (load_config("learn", ["rollout.group_size=6", f"train.micro_batch={rows}"]) for rows in (24, 5))
    row = certificate_row(policy, rollout, whole)
    assert row["certificate/surrogate"] == pytest.approx(0, abs=1e-4)
    assert row["certificate/divergence"] == pytest.approx(0, abs=1e-4)
    assert row["certificate/groups"] == 4
    assert row["certificate/responses"] == 24
    with torch.no_grad():
        next(policy.model.parameters()).mul_(0.97)
    row = certificate_row(policy, rollout, whole)
    assert row["certificate/divergence"] > 1e-3
    assert certificate_row(policy, rollout, parts) == pytest.approx(row, abs=1e-4)
