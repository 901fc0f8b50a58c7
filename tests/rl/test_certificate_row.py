"""The certificate's feed: nothing to certify without an update, and the same whatever the rows per forward pass."""

from __future__ import annotations

import pytest
import torch

from minicppo.rl.certificate import Judged, certificate_row
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Needs
from minicppo.rl.sampling import sample


def judged(policy: Policy, prompts: list[list[int]], needs: Needs) -> Judged:
    rollout = sample(policy, prompts, 12, 1.0, torch.Generator().manual_seed(0), needs=needs, samples=6)
    return Judged(rollout, (torch.arange(24) % 3 == 0).float(), 6)


@pytest.mark.parametrize("needs", ["log_probs", "full"])
def test_an_unchanged_policy_has_no_gain_and_no_divergence(
    policy: Policy, ragged_prompts: list[list[int]], needs: Needs
) -> None:
    row = certificate_row(policy, judged(policy, ragged_prompts, needs), 1.0, needs, rows=24)
    assert row["certificate/surrogate"] == pytest.approx(0, abs=1e-4)
    assert row["certificate/divergence"] == pytest.approx(0, abs=1e-4)
    assert row["certificate/groups"] == 4
    assert row["certificate/responses"] == 24


@pytest.mark.parametrize("needs", ["log_probs", "full"])
def test_a_changed_policy_and_the_rows_per_forward_pass(
    policy: Policy, ragged_prompts: list[list[int]], needs: Needs
) -> None:
    batch = judged(policy, ragged_prompts, needs)
    with torch.no_grad():
        next(policy.model.parameters()).mul_(0.97)
    whole, parts = (certificate_row(policy, batch, 1.0, needs, rows) for rows in (24, 5))
    assert whole["certificate/divergence"] > 1e-3
    assert parts == pytest.approx(whole, abs=1e-4)
