"""The paper's statements: never violated, as sharp as they are said to be, and their counterexamples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from minicppo.bounds import families as fam
from minicppo.bounds import programs as prog
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds import tabular as tab
from minicppo.bounds.budget import Budget, linear_weights

from .strategies import FEW, pairs, pairs_with_budget


@FEW
@given(pairs())
def test_suffix_tv_within_product_within_sum(pair: tab.Pair) -> None:
    product, linear = res.suffix_products(pair.caps), res.suffix_sums(pair.caps)
    for t in range(1, pair.horizon + 1):
        assert tab.suffix_tv(pair, t).max() <= product[t - 1] + 1e-12
    assert (product <= linear + 1e-12).all()


def test_suffix_bounds_against_loops() -> None:
    caps = np.array([0.5, 0.25, 0.125, 0.0625])
    for t in range(4):
        assert res.suffix_sums(caps)[t] == sum(caps[t + 1 :])
        assert res.suffix_products(caps)[t] == 1 - np.prod(1 - caps[t + 1 :])


@FEW
@given(pairs())
def test_no_bound_of_the_paper_is_violated(pair: tab.Pair) -> None:
    worst = sh.worst_reward(pair)
    assert worst <= res.proposition4(pair.drift, pair.caps) + 1e-12
    assert worst <= res.product_form(pair.drift, pair.caps) + 1e-12
    assert worst <= res.uniform_rule(pair.horizon, float(pair.caps.max())) + 1e-12
    for bound in res.trm_bounds(pair).values():
        assert worst <= bound + 1e-12


@FEW
@given(pairs_with_budget("premise"))
def test_theorem1_holds_inside_eq5(case: tuple[tab.Pair, Budget]) -> None:
    pair, budget = case
    worst = sh.worst_reward(fam.budgeted(pair, budget))
    assert worst <= res.theorem1(pair.horizon, budget.delta, budget.delta_b, budget.weights[-1]) + 1e-12
    assert worst <= res.theorem1_monotone(budget) + 1e-12


@FEW
@given(pairs_with_budget("algorithm"))
def test_theorem1_as_implemented_holds_inside_eq8(case: tuple[tab.Pair, Budget]) -> None:
    pair, budget = case
    worst = sh.worst_reward(fam.budgeted(pair, budget))
    implemented = res.theorem1_eq8(budget)
    assert worst <= implemented + 1e-12
    slack = res.proposition8(pair.horizon, budget.delta, budget.delta_b, budget.weights[-1])
    assert implemented <= slack + 1e-12


def test_proposition4_is_attained_at_two_tokens() -> None:
    pair = fam.rare_token(np.array([0.25, 0.5]), 2.0**-20)
    assert sh.worst_reward(pair) == pytest.approx(res.proposition4(pair.drift, pair.caps), rel=1e-6)


def test_theorem1_exact_supremum_ratio() -> None:
    claimed = res.theorem1(4, 0.15, 0.02, 0.8)
    assert claimed == pytest.approx(0.09)
    every, proof_only = (
        prog.exact_supremum(Budget.linear(4, 0.15, 0.02, 0.8, form)) / claimed for form in ("theorem", "premise")
    )
    assert every == pytest.approx(0.112, abs=5e-4)  # Eq. 5 at every t <= T
    assert proof_only == pytest.approx(0.553, abs=5e-4)  # Eq. 5 at t <= T - 1, all that the proof uses


def test_theorem1_is_sharp_when_the_budget_holds_in_mean_only() -> None:
    pair = fam.lottery(4, cap=0.01, mean=0.005)
    ratio = sh.worst_reward(pair) / res.theorem1(4, 0.01, 0.005)
    assert 0.98 < ratio <= 1


def test_without_a_monotone_ratio_theorem1_fails_and_the_majorant_repairs_it() -> None:
    budget = Budget(0.15, 0.02, np.array([1.0, 0.01, 0.01]), "theorem")
    pair = fam.budgeted(fam.rare_token(np.array([0.0, 1 - 1e-6, 1 - 1e-6])), budget)
    worst = sh.worst_reward(pair)
    assert worst > 16 * res.theorem1(3, 0.15, 0.02, 0.01)
    assert worst <= res.theorem1_monotone(budget)


@pytest.mark.parametrize(
    ("horizon", "uniform", "implemented", "path"),
    [(8, 2.52, 1.112, 0.234), (16, 10.8, 3.285, 0.540), (64, 181.4, 36.48, 3.168), (8192, 3.02e6, 5.041e5, 363.5)],
)
def test_table_of_bounds(horizon: int, uniform: float, implemented: float, path: float) -> None:
    budget = Budget.linear(horizon)
    assert res.uniform_rule(horizon, 0.15) == pytest.approx(uniform, rel=1e-3)
    assert res.theorem1_eq8(budget) == pytest.approx(implemented, rel=1e-3)
    assert sh.path_budget(budget.path_divergence) == pytest.approx(path, rel=2e-3)


def test_improvement_over_the_uniform_rule_is_a_ratio_of_bounds() -> None:
    ratio = res.theorem1(512, 0.15, 0.02, 0.8) / res.uniform_rule(512, 0.15)
    assert ratio == pytest.approx(res.improvement_ratio(0.15, 0.02, 0.8))
    assert sh.uniform_supremum(512, 0.15) < res.theorem1(512, 0.15, 0.02, 0.8)


def test_implemented_form_at_unit_weights() -> None:
    for horizon in (2, 3, 16, 257):
        below = res.proposition8(horizon, 0.15, 0.02) - 4 * (horizon - 1) * 0.15 * 0.02
        assert res.theorem1_eq8(Budget.linear(horizon, w_min=1.0)) == pytest.approx(below)
    assert res.theorem1_eq8(Budget.linear(1)) == 0


@pytest.mark.parametrize(("cap", "first"), [(0.15, 19), (0.02, 134), (0.01, 267)])
def test_product_ratio_stops_falling(cap: float, first: int) -> None:
    def falls(horizon: int) -> bool:
        return bool((np.diff(res.suffix_products(np.full(horizon, cap)) / linear_weights(horizon, 0.8)) < 1e-12).all())

    assert [falls(first - 1), falls(first)] == [True, False]
