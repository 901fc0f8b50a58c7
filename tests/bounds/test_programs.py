"""The greedy optimum against the simplex, and the exact programme against policies and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds import families as fam
from minicppo.bounds import programs as prog
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds.budget import Budget
from minicppo.bounds.tabular import Array, Pair

from .strategies import FEW, pairs_with_budget


def vectors(size: int) -> st.SearchStrategy[Array]:
    numbers = st.integers(0, 64).map(lambda k: k / 16)
    return st.lists(numbers, min_size=size, max_size=size).map(np.array)


@FEW
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(vectors(n), vectors(n), vectors(n))))
def test_greedy_is_the_simplex_optimum(case: tuple[Array, Array, Array]) -> None:
    coefficients, caps, limits = case
    value, z = prog.greedy(coefficients, caps, limits)
    assert value == pytest.approx(prog.linear_program(coefficients, caps, limits), abs=1e-9)
    assert (z <= caps + 1e-12).all()
    assert (np.cumsum(z) <= limits + 1e-12).all()


@pytest.mark.parametrize(("horizon", "w_min"), [(2, 1.0), (4, 0.8), (16, 1.0), (64, 0.8), (128, 0.5)])
def test_closed_form_of_theorem1_as_implemented(horizon: int, w_min: float) -> None:
    budget = Budget.linear(horizon, w_min=w_min)
    programme = prog.theorem1_program(budget, res.suffix_sums(np.full(horizon, 0.15 / w_min)))
    assert prog.greedy(*programme)[0] == pytest.approx(res.theorem1_eq8(budget), rel=1e-9)
    assert prog.linear_program(*programme) == pytest.approx(res.theorem1_eq8(budget), rel=1e-7)


@FEW
@given(pairs_with_budget())
def test_no_policy_beats_the_exact_programme(case: tuple[Pair, Budget]) -> None:
    """The grid approaches the supremum from below, hence the small allowance."""
    pair, budget = case
    supremum = prog.exact_supremum(budget, cells=60)
    assert sh.worst_reward(fam.budgeted(pair, budget)) <= supremum * 1.05 + 1e-12


@pytest.mark.parametrize("horizon", [2, 3, 6])
def test_exact_programme_with_caps_alone_is_the_cap_theorem(horizon: int) -> None:
    free = Budget(0.125, 9.0, np.ones(horizon))
    assert prog.exact_supremum(free, cells=8) == pytest.approx(sh.uniform_supremum(horizon, 0.125), rel=1e-12)


def test_exact_programme_on_three_tokens_by_brute_force() -> None:
    """Every grid path of divergences that does not depend on the state is a rare-token policy inside the
    budget.
    """
    budget = Budget(0.25, 0.0625, np.ones(3))
    grid = np.arange(9) / 32
    inside = [d for d in itertools.product(grid, repeat=3) if (np.cumsum(d) <= budget.limits + 1e-12).all()]
    flat = max(sh.cap_theorem(np.array(d)) for d in inside)
    exact = prog.exact_supremum(budget, cells=8)
    assert flat <= exact + 1e-12
    assert exact <= sh.path_budget(budget.path_divergence)
    assert exact == pytest.approx(flat, rel=0.05)  # state-dependent spending gains little


def test_sequence_budgets_cost_a_factor_between_bounds_only() -> None:
    horizon, delta_b = 16, 0.02
    prefix = 2 * horizon * (horizon - 1) * delta_b
    coefficients, free = 4.0 * np.arange(horizon - 1, -1, -1), np.full(horizon, np.inf)
    to_the_last_but_one = prog.greedy(coefficients, free, np.full(horizon, (horizon - 1) * delta_b))[0]
    whole = prog.greedy(coefficients, free, np.full(horizon, horizon * delta_b))[0]
    assert to_the_last_but_one / prefix == pytest.approx(2 - 2 / horizon)
    assert whole / prefix == pytest.approx(2)
    ends, prefixes = (
        prog.exact_supremum(Budget.linear(horizon, w_min=1.0, form=form)) for form in ("terminal", "theorem")
    )
    assert ends == pytest.approx(prefixes, rel=1e-3)


def test_exact_worst_case_grows_as_w_min_falls() -> None:
    found = [prog.exact_supremum(Budget.linear(16, w_min=w)) for w in (1.0, 0.8, 0.6, 0.4)]
    assert found == pytest.approx([0.321, 0.381, 0.515, 0.829], abs=2e-3)


def test_exact_table() -> None:
    found = [prog.exact_supremum(Budget.linear(t)) for t in (8, 16, 32, 64)]
    assert found == pytest.approx([0.164, 0.381, 0.977, 2.50], rel=5e-3)
    assert all(
        a <= sh.path_budget(Budget.linear(t).path_divergence) for a, t in zip(found, (8, 16, 32, 64), strict=True)
    )


def test_a_programme_without_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"delta=0"):
        prog.exact_supremum(Budget(0.0, 0.1, np.ones(2)))
    with pytest.raises(ValueError, match="positive weights"):
        prog.exact_supremum(Budget.linear(3, w_min=0.0))
