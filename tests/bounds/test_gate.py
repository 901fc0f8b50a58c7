"""Gates on policies: the paper's test and score, the soft gate's gap, water-filling, and Theorem B."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds import families as fam
from minicppo.bounds import gate as gt
from minicppo.bounds import sharper as sh
from minicppo.bounds import tabular as tab
from minicppo.bounds.budget import Budget
from minicppo.bounds.tabular import Array, Pair
from theory import checks_ours
from theory.study import Study

from .strategies import FEW, pairs_with_budget

hundredths = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@given(hundredths, st.integers(1, 30), st.integers(0, 10))
def test_score_at_most_one_is_the_test(row: list[int], delta: int, delta_b: int) -> None:
    ones = np.array([Fraction(1)] * len(row), dtype=object)
    budget = Budget(Fraction(delta, 100), Fraction(delta_b, 100), ones)
    spent = Fraction(0)
    for t, hundredth in enumerate(row):
        z = Fraction(hundredth, 100)
        allowance = min(budget.delta, budget.delta + budget.delta_b * t - spent)
        kept = bool(gt.keeps(budget, t, z, spent))
        assert kept == (z <= allowance) == bool(gt.violation_score(budget, t, z, spent) <= 1)
        spent += z


@FEW
@given(pairs_with_budget(), st.booleans())
def test_hard_gates_against_a_loop_along_every_path(case: tuple[Pair, Budget], kept_only: bool) -> None:
    pair, budget = case
    gates = pair.along_paths(gt.hard_gates(pair, budget, kept_only))
    for path, expected in zip(pair.path_divergence.T, gates.T, strict=True):
        spent = deposit = 0.0
        for t, d in enumerate(path):
            z = float(budget.weights[t] * d)
            allowance = min(budget.delta, budget.delta + budget.delta_b * deposit - spent)
            if abs(z - allowance) > 1e-9:  # a tie may fall either way in floating point
                assert (z <= allowance) == bool(expected[t])
            spent += z * (expected[t] if kept_only else 1)
            deposit += float(budget.weights[t])


@FEW
@given(pairs_with_budget(), st.booleans(), st.randoms(use_true_random=False))
def test_theorem_b(case: tuple[Pair, Budget], kept_only: bool, random) -> None:  # type: ignore[no-untyped-def]
    pair, budget = case
    rewards = np.array([random.uniform(-1, 1) for _ in pair.reach_mu[-1]])
    baseline = np.array([random.uniform(-1, 1)])
    gates = gt.hard_gates(pair, budget, kept_only)
    gated = fam.apply_gate(pair, gates)
    change = tab.improvement(gated, rewards)
    assert gt.excess_over(gated, budget) <= 1e-12
    assert gt.gated_lower_bound(pair, budget, gates, rewards, baseline) <= change + 1e-12
    moved = abs(tab.improvement(pair, rewards) - change)
    assert moved <= 2 * gt.gate_failure(pair, gates) + 1e-12


@FEW
@given(pairs_with_budget())
def test_the_gated_surrogate_is_the_surrogate_of_the_gated_policy(case: tuple[Pair, Budget]) -> None:
    pair, budget = case
    rewards = np.arange(len(pair.reach_mu[-1])) % 3 - 1.0
    gates = gt.hard_gates(pair, budget)
    weighted = pair.reach_mu[-1] @ (pair.along_paths(gates) * pair.path_excess * (rewards - 0.25)).sum(axis=0)
    assert tab.surrogate(gt.gated(pair, budget), rewards) == pytest.approx(weighted, abs=1e-10)


def test_theorem_b_on_two_thousand_pairs() -> None:
    evidence = checks_ours.theorem_b(Study(repeats=6))
    assert evidence.agrees
    assert evidence.instances >= 2000


@FEW
@given(pairs_with_budget())
def test_waterfilling_keeps_the_budget_and_most_of_pi(case: tuple[Pair, Budget]) -> None:
    pair, budget = case
    gates = fam.waterfill_gates(pair, budget)
    assert gt.excess_over(fam.apply_gate(pair, gates), budget) <= 1e-12
    kept_only = gt.hard_gates(pair, budget, count_kept_only=True)
    assert (gates[0] >= kept_only[0]).all()


@FEW
@given(pairs_with_budget())
def test_soft_gate_keeps_the_token_cap(case: tuple[Pair, Budget]) -> None:
    pair, budget = case
    gated = fam.apply_gate(pair, gt.soft_gates(pair, budget))
    for w, d in zip(budget.weights, gated.divergence, strict=True):
        assert w * d.max() <= budget.delta + 1e-12


def test_soft_gate_breaks_the_prefix_budget_and_waterfilling_does_not() -> None:
    budget = Budget(0.15, 0.02, np.ones(3))
    pair = fam.rare_token(np.full(3, 0.15), 2.0**-20)
    assert gt.excess_over(fam.apply_gate(pair, gt.soft_gates(pair, budget)), budget) > 0.05
    assert gt.excess_over(fam.apply_gate(pair, fam.waterfill_gates(pair, budget)), budget) <= 1e-12


def soft_sum(budget: Budget, z: Array) -> Array:
    """Prefix sums of g_t Z_t along one response."""
    score = [gt.violation_score(budget, t, z[t], z[:t].sum()) for t in range(len(z))]
    return np.cumsum(z / np.maximum(1, score))


def test_soft_gate_grows_like_a_harmonic_sum_without_a_budget() -> None:
    sums = soft_sum(Budget(0.15, 0.0, np.ones(1000)), np.full(1000, 0.15))
    assert sums[-1] == pytest.approx(0.15 * (1 / np.arange(1, 1001)).sum())
    usual = Budget(0.15, 0.02, np.ones(64))
    ratios = soft_sum(usual, np.full(64, 0.15)) / usual.limits
    assert ratios.argmax() + 1 == 8
    assert ratios.max() == pytest.approx(1.77, abs=5e-3)


def test_gated_residual_is_within_the_path_budget() -> None:
    rng = np.random.default_rng(3)
    budget = Budget.linear(5, 0.2, 0.05)
    for _ in range(10):
        gated = gt.gated(fam.random_pair(rng, 5, 2), budget)
        assert sh.worst_reward(gated) <= sh.path_budget(budget.path_divergence) + 1e-12
