"""Soft gates in the place of the mask (methods.md section 1.3)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import reference, rules
from minicppo.rules.gates import charge_what_passes, gate_values
from tests.rules.strategies import limits, responses
from tests.rules.twins import close, mask, steps


def gates(out: rules.CPPOMask, kind: str) -> list[float]:
    """The rules' gate values of a mask of one response."""
    if kind == "budget":
        out = charge_what_passes(out)
        assert (out.threshold >= 0).all()
    return gate_values(out, kind)[0].tolist()


@given(responses(), limits(), st.sampled_from(["reciprocal", "sigmoid"]))
def test_soft_gate_is_one_where_kept(response, lim, kind):
    """theory 24 and 25, methods P8. 1 exactly where the mask keeps, in (0, 1) elsewhere, x g(x) <= 1; twins agree."""
    loop = steps(response, lim)
    by_loop = reference.soft_gate(loop, delta=lim.delta, delta_b=lim.delta_b, kind=kind)
    for g, step in zip(by_loop, loop, strict=True):
        assert (g == 1) == step.keep
        assert g <= 1
        spent = (step.S_before + step.weighted_divergence) / (lim.delta + lim.delta_b * step.W_before)
        x = max(step.weighted_divergence / lim.delta, spent)
        assert g > 0 or x > 700  # exp(-700) is about the smallest number there is
        assert step.reason == "toward" or x * g <= 1 + 1e-12
    mine = gates(mask(response, lim), kind)
    close(mine, by_loop, 1e-12)
    assert [g == 1 for g in mine] == [x.keep for x in loop]


@given(responses(), limits())
def test_water_filling_keeps_the_budget(response, lim):
    """ours. With the causal gate the running sum of g Z never exceeds the budget (toward tokens too are charged)."""
    loop, spent = steps(response, lim), 0.0
    mine = gates(mask(response, lim), "budget")
    close(mine, reference.budget_gate(loop, delta=lim.delta, delta_b=lim.delta_b), 1e-12)
    for g, step in zip(mine, loop, strict=True):
        assert 0 <= g <= 1
        spent += g * step.weighted_divergence * (step.reason != "toward")
        assert spent <= (lim.delta + lim.delta_b * step.W_before) * (1 + 1e-12)
        assert step.reason == "toward" or g * step.weighted_divergence <= lim.delta * (1 + 1e-12)


@given(responses(all_away=True), limits())
def test_water_filling_fills_the_room(response, lim):
    """ours. A token the gate cuts is cut to the room left, no less; without a budget the room is delta."""
    loop, mine = steps(response, lim, budget="off"), gates(mask(response, lim, budget="off"), "budget")
    close(mine, reference.budget_gate(loop, delta=lim.delta, delta_b=None), 1e-12)
    for g, step in zip(mine, loop, strict=True):
        close(g * step.weighted_divergence, min(step.weighted_divergence, lim.delta), 1e-12)


def test_a_spent_token_is_masked_where_the_gate_on_the_gradient_pushes_on():
    log_probs = torch.tensor([[0.9, 0.9, 0.52]]).log()
    batch = rules.TokenBatch(log_probs, torch.full((1, 3), 0.5).log(), torch.ones(1))
    gradient, policy, hard = (
        rules.get_method(name, budget="fixed", schedule="constant")(batch).weight[0]
        for name in ("cppo-budget-gate", "cppo-policy-gate", "cppo-fixed")
    )
    assert gradient[0].item() == pytest.approx(1.8 * 0.15 / 0.4)
    assert policy[:2].tolist() == [0, 0]
    assert policy[2].item() == pytest.approx(1.04)  # the gated policy has spent .17 of .19: room for .02
    assert hard[2] == 0  # pi itself has spent .8
