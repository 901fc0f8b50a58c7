"""What a gradient mask does not do, and where the prefix budget helps."""

from __future__ import annotations

import numpy as np
import pytest

from minicppo.bounds import flow
from minicppo.bounds.budget import Budget

CPPO = Budget(0.15, 0.02, np.ones(2))
DPPO = Budget(0.15, 1.0, np.ones(2))  # a budget that never binds


def test_a_shared_parameter_leaks_past_the_budget() -> None:
    """The late token is masked at .15, but the early one keeps pushing the parameter it shares."""
    ends = [flow.shared_parameter_flow(np.array([0.2, 4.0]), budget).final for budget in (CPPO, DPPO)]
    np.testing.assert_allclose(ends[0], [0.15, 0.5], atol=1e-3)
    np.testing.assert_allclose(ends[0], ends[1])
    assert ends[0].sum() > 3 * CPPO.limits[-1]


def test_the_budget_holds_where_dppo_does_not() -> None:
    slopes = np.array([4.0, 0.2])
    cppo, dppo = (flow.shared_parameter_flow(slopes, budget).final for budget in (CPPO, DPPO))
    assert cppo.sum() == pytest.approx(0.17, abs=5e-4)
    assert cppo[0] == pytest.approx(0.162, abs=5e-4)  # 8 % past its cap: pushed by the late token
    np.testing.assert_allclose(dppo, [0.5, 0.15], atol=1e-3)


def test_one_step_overshoots() -> None:
    found = flow.shared_parameter_flow(np.array([1.0]), Budget(0.15, 0.02, np.ones(1)), step=1.0)
    assert found.kept[0].all()
    assert found.final[0] == pytest.approx(0.231, abs=5e-4)


def test_filling_from_the_end_passes_every_test_and_breaks_the_budget() -> None:
    budget = Budget(0.15, 0.02, np.ones(64))
    divergence = flow.fill_last_to_first(budget)
    assert divergence.sum() == pytest.approx(9.6)
    assert budget.limits[-1] == pytest.approx(1.41)


def test_rising_together_overshoots_by_a_logarithm() -> None:
    closed = flow.fill_together(64, 0.15, 0.02)
    simulated = flow.simulate_together(Budget(0.15, 0.02, np.ones(64)), step=5e-4)
    np.testing.assert_allclose(simulated, closed, atol=1.5e-3)
    assert closed.sum() == pytest.approx(1.8967, abs=1e-4)


def test_toward_is_not_closer_beyond_two_tokens() -> None:
    rate = flow.toward_step_tv_rate(np.array([0.8, 0.1, 0.1]), np.array([0.75, 0.05, 0.2]), token=1, sign=1)
    assert rate == pytest.approx(0.071)
    rng = np.random.default_rng(0)
    for mu, pi in zip(*rng.dirichlet(np.ones(2), (2, 200)), strict=True):
        sign = 1 if pi[0] < mu[0] else -1
        assert flow.toward_step_tv_rate(mu, pi, 0, sign) < 1e-12


def test_rate_against_a_finite_difference() -> None:
    mu, pi, step = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.35, 0.45]), 1e-6
    logits = np.log(pi) + step * ((np.arange(3) == 1) - pi)
    moved = np.exp(logits) / np.exp(logits).sum()
    difference = (abs(moved - mu).sum() - abs(pi - mu).sum()) / 2 / step
    assert flow.toward_step_tv_rate(mu, pi, 1, 1) == pytest.approx(difference, abs=1e-5)


def test_slopes_of_both_signs_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        flow.shared_parameter_flow(np.array([1.0, -1.0]), CPPO)
