"""What is logged of a step: shares of masked and gated tokens, budgets, divergences by position."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import rules
from tests.rules.strategies import traces
from tests.rules.test_methods import BATCHES
from tests.rules.twins import close, token_batch


@given(traces(), st.sampled_from(["cppo-soft", "cppo-soft-sigmoid", "cppo-budget-gate"]))
def test_gates_are_logged_apart_from_masks(drawn, name):
    """methods 9. A gate masks nothing: its shares of masked tokens are 0, gate/frac is what it scales."""
    batch = token_batch(*drawn)
    out = rules.get_method(name, delta=0.05, delta_b=0.01)(batch)
    row = rules.diagnostics(batch, out)
    assert row["mask/frac"] == row["mask/token_only"] == row["mask/prefix_only"] == row["mask/both"] == 0
    scaled = (out.weight < batch.ratio.float() * (1 - 1e-6))[batch.mask]
    close(row["gate/frac"], scaled.double().mean(), 1e-6)
    assert name != "cppo-budget-gate" or row["budget/negative"] == 0  # its c_t is its own


@given(traces(), st.sampled_from(["cppo", "dppo", "grpo", "gspo", "minpro"]))
def test_diagnostics_do_not_see_padding(drawn, name):
    """methods P3 and 9. Every logged figure is the same with padding on the left and on the right."""
    batch, method = token_batch(*drawn), rules.get_method(name)
    wide = {}
    for key in ("log_probs", "rollout_log_probs", "advantages", "response_mask", "old_log_probs"):
        value = getattr(batch, key)
        wide[key] = torch.cat([value.new_zeros(len(value), 2), value, value.new_zeros(len(value), 1)], 1)
    here, there = (rules.diagnostics(b, method(b)) for b in (batch, rules.TokenBatch(**wide)))
    assert here.keys() == there.keys()
    for key, value in here.items():
        close(there[key], value, 1e-6)


def test_reasons_of_whole_responses():
    batch = BATCHES["log_probs"]
    out = rules.get_method("gspo")(batch)
    assert out.sequence_level
    assert (out.reason[batch.mask & ~out.token_mask] == rules.Reason.SEQUENCE).all()
    row = rules.diagnostics(batch, out)
    assert 0 < row["accept/rate"] < 1
    lengths = {k for k in row if k.startswith("accept/len_")}
    assert lengths == {"accept/len_1", "accept/len_2", "accept/len_8", "accept/len_16"}


def test_dynamic_budget_statistics():
    out = rules.get_method("cppo", delta_b=0.05)(BATCHES["log_probs"])
    row = rules.diagnostics(BATCHES["log_probs"], out)
    assert row["budget/delta_b_min"] == pytest.approx(0.05)
    assert row["budget/delta_b_max"] == pytest.approx(0.10)
    assert row["budget/at_floor"] + row["budget/at_cap"] < 1
    assert row["budget/at_floor"] > 0
    assert row["budget/at_cap"] > 0
    free = rules.get_method("cppo", delta_b=math.inf)(BATCHES["log_probs"])
    assert "budget/at_floor" not in free.stats


def test_deciles_follow_the_position():
    x = torch.full((1, 20), -1.0)
    batch = rules.TokenBatch(x, x, torch.ones(1), divergence=torch.arange(20.0)[None] / 20)
    row = rules.diagnostics(batch, rules.get_method("dppo")(batch))
    assert [row[f"div/decile_{k}"] for k in range(10)] == pytest.approx([(4 * k + 1) / 40 for k in range(10)])
