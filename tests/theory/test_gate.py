"""Gates and flows against plain loops; what they guarantee is in the checks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds.budget import Budget
from tests.theory.strategies import pairs_with_budget
from theory import flow, gate
from theory.tabular import surrogate


@given(pairs_with_budget(), st.booleans())
def test_hard_gates_against_a_loop_along_every_path(case, kept_only):
    pair, budget = case
    gates = pair.along_paths(gate.hard_gates(pair, budget, kept_only))
    for path, expected in zip(pair.path_divergence.T, gates.T, strict=True):
        spent = deposit = 0.0
        for t, d in enumerate(path):
            z = float(budget.weights[t] * d)
            allowance = min(budget.delta, budget.delta + budget.delta_b * deposit - spent)
            if abs(z - allowance) > 1e-9:  # a tie may fall either way in floating point
                assert (z <= allowance) == bool(expected[t])
            spent += z * (expected[t] if kept_only else 1)
            deposit += float(budget.weights[t])


@given(pairs_with_budget())
def test_the_gated_surrogate_is_the_surrogate_of_the_gated_policy(case):
    pair, budget = case
    rewards = np.arange(len(pair.reach_mu[-1])) % 3 - 1.0
    gates = gate.hard_gates(pair, budget)
    weighted = pair.reach_mu[-1] @ (pair.along_paths(gates) * pair.path_excess * (rewards - 0.25)).sum(axis=0)
    assert surrogate(gate.gated(pair, budget), rewards) == pytest.approx(weighted, abs=1e-10)


def test_rate_against_a_finite_difference():
    mu, pi, step = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.35, 0.45]), 1e-6
    logits = np.log(pi) + step * ((np.arange(3) == 1) - pi)
    moved = np.exp(logits) / np.exp(logits).sum()
    difference = (abs(moved - mu).sum() - abs(pi - mu).sum()) / 2 / step
    assert flow.toward_step_tv_rate(mu, pi, 1, 1) == pytest.approx(difference, abs=1e-5)


def test_slopes_of_both_signs_are_refused():
    with pytest.raises(ValueError, match="must be positive"):
        flow.shared_parameter_flow(np.array([1.0, -1.0]), Budget(0.15, 0.02, np.ones(2)))
