"""The constraint set against plain loops, and edges of the bounds; programmes, and that bounds hold, are in theory/."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds import residual, sharper
from minicppo.bounds.budget import Budget, linear_weights


def test_linear_weights():
    assert linear_weights(1, 0.8).tolist() == [1.0]
    np.testing.assert_allclose(linear_weights(5, 0.8), [1, 0.95, 0.9, 0.85, 0.8])
    assert linear_weights(4, 0.0)[-1] == 0
    with pytest.raises(ValueError, match=r"horizon=0"):
        linear_weights(0, 0.8)
    with pytest.raises(ValueError, match=r"w_min=1.5"):
        linear_weights(4, 1.5)


@given(st.integers(1, 12), st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 1))
def test_limits_against_a_loop(horizon, delta, delta_b, w_min):
    w = linear_weights(horizon, w_min)
    forms = ("algorithm", "theorem", "premise", "terminal")
    limits = (Budget.linear(horizon, delta, delta_b, w_min, form).limits for form in forms)
    algorithm, theorem, premise, terminal = limits
    for t in range(horizon):
        assert algorithm[t] == pytest.approx(delta + delta_b * sum(w[:t]), abs=1e-12)
        assert theorem[t] == pytest.approx(delta_b * sum(w[: t + 1]), abs=1e-12)
        assert terminal[t] == pytest.approx(delta_b * sum(w), abs=1e-12)
    np.testing.assert_allclose(premise[:-1], theorem[:-1])
    assert premise[-1] == pytest.approx(delta_b * sum(w[:-1]) + delta, abs=1e-12)


def test_fill_from_the_end_stays_below_the_closed_form():
    for horizon in (8, 100):
        budget = Budget.linear(horizon)
        closed = (0.15 + 0.02 * budget.weights[:-1].sum()) / 0.8
        assert 0.8 * closed < budget.path_divergence <= closed


def test_a_zero_last_weight_leaves_the_last_token_free():
    assert Budget.linear(2, 0.1, 0.02, 0.0).path_divergence == pytest.approx(0.1 + 1)
    np.testing.assert_array_equal(Budget.linear(2, 0.1, 0.02, 0.0).token_caps, [0.1, 1])


def test_exact_numbers_pass_through():
    budget = Budget(Fraction(1, 8), Fraction(1, 50), np.array([Fraction(1), Fraction(1, 2)], dtype=object))
    assert list(budget.limits) == [Fraction(1, 8), Fraction(1, 8) + Fraction(1, 50)]
    assert list(budget.token_caps) == [Fraction(1, 8), Fraction(1, 4)]


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match=r"delta=-0.1"):
        Budget(-0.1, 0.02, np.ones(2))
    with pytest.raises(ValueError, match="unknown form 'slack'"):
        Budget(0.1, 0.02, np.ones(2), "slack")
    with pytest.raises(ValueError, match="non-increasing"):
        Budget(0.1, 0.02, np.array([0.5, 1.0])).path_divergence  # noqa: B018


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_suffix_bounds_against_loops():
    caps = np.array([0.5, 0.25, 0.125, 0.0625])
    for t in range(4):
        assert residual.suffix_sums(caps)[t] == sum(caps[t + 1 :])
        assert residual.suffix_products(caps)[t] == 1 - np.prod(1 - caps[t + 1 :])


def test_one_token_has_no_residual():
    assert residual.theorem1_eq8(Budget.linear(1)) == residual.theorem1(1, 0.15, 0.02) == 0
    assert sharper.uniform_supremum(1, 0.15) == sharper.cap_theorem(np.array([0.15])) == 0


def test_chi_square_budget_is_exact_when_small_and_infinite_when_large():
    assert sharper.chi_square_budget(1e-3) == pytest.approx(1e-3 / np.sqrt(2), rel=1e-3)
    assert sharper.chi_square_budget(9.9e-5) == pytest.approx(sharper.chi_square_budget(1.01e-4) * 9.9 / 10.1, rel=1e-4)
    assert sharper.chi_square_budget(1e4) == np.inf
