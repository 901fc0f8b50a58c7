"""Tabular policies, gates on them and programmes, against plain Python; what they guarantee is in the checks."""

import itertools
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds.budget import Budget
from theory import families as fam
from theory import flow, gate, programs
from theory import tabular as tab
from theory.pair_bounds import largest_path
from theory.tabular import Array, Pair, uniform_prior

SHAPES = ((2, 1), (2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (4, 2))
"""(V, T): small enough to draw every row."""


RAW = st.binary(min_size=96, max_size=96)  # bytes of a pair, at most 78, and of what goes with it


def pair_of(raw: bytes, exact: bool = False) -> Pair:
    """mu with full support, pi with zeros allowed: integers of at most 12, normalised in float64 or as Fractions."""
    vocab, horizon = SHAPES[raw[-1] % len(SHAPES)]
    numbers = iter(raw)

    def level(rows: int, low: int) -> Array:
        counts = np.array([[low + next(numbers) % (13 - low) for _ in range(vocab)] for _ in range(rows)])
        counts[counts.sum(axis=1) == 0] = 1
        if not exact:
            return counts / counts.sum(axis=1, keepdims=True)
        return np.array([[Fraction(int(n), int(row.sum())) for n in row] for row in counts], dtype=object)

    mu, pi = (tuple(level(vocab**t, low) for t in range(horizon)) for low in (1, 0))
    return Pair(mu, pi, uniform_prior(1, exact))


def pair_with_budget(raw: bytes) -> tuple[Pair, Budget]:
    """Any pair and a budget of its horizon, in dyadic numbers; delta_b may exceed delta."""
    pair, w_min = pair_of(raw), (1 + raw[-2] % 4) / 4
    return pair, Budget.linear(pair.horizon, (1 + raw[-3] % 24) / 32, raw[-4] % 13 / 64, w_min)


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(RAW.map(partial(pair_of, exact=True)), st.lists(st.integers(-4, 4), min_size=27, max_size=27))
def test_enumeration_agrees_with_plain_loops(pair, quarters):
    v, horizon = pair.vocab, pair.horizon
    rewards = np.array([Fraction(q, 4) for q in quarters[: v**horizon]], dtype=object)
    j_mu = j_pi = first_order = Fraction(0)
    for leaf, response in enumerate(itertools.product(range(v), repeat=horizon)):
        state, p_mu, p_pi, excess = 0, Fraction(1), Fraction(1), Fraction(0)
        for t, token in enumerate(response):
            m, p = pair.mu[t][state][token], pair.pi[t][state][token]
            half = sum(abs(a - b) for a, b in zip(pair.mu[t][state], pair.pi[t][state], strict=True)) / 2
            assert pair.path_divergence[t, leaf] == half
            assert pair.path_excess[t, leaf] == p / m - 1
            p_mu, p_pi, excess, state = p_mu * m, p_pi * p, excess + p / m - 1, state * v + token
        assert (pair.reach_mu[-1][leaf], pair.reach_pi[-1][leaf]) == (p_mu, p_pi)
        j_mu, j_pi = j_mu + p_mu * rewards[leaf], j_pi + p_pi * rewards[leaf]
        first_order += p_mu * excess * rewards[leaf]
    assert tab.improvement(pair, rewards) == j_pi - j_mu
    assert tab.surrogate(pair, rewards) == first_order


@given(RAW.map(pair_of))
def test_what_is_read_off_a_pair(pair):
    mu, pi = pair.reach_mu[-1], pair.reach_pi[-1]
    np.testing.assert_allclose(pair.drift, mu @ pair.path_divergence.T, atol=1e-14)
    np.testing.assert_allclose(pair.caps, pair.path_divergence.max(axis=1))
    np.testing.assert_allclose(tab.suffix_tv(pair, 0), [tab.total_variation(mu, pi)], atol=1e-14)
    assert tab.sequence_kl(pair) == pytest.approx(float(tab.kl(mu, pi)), abs=1e-12)


@given(RAW.map(pair_with_budget), st.floats(0, 1), st.floats(0, 3))
def test_constructors_meet_their_premise(case, cap, total):
    pair, budget = case
    assert fam.capped(pair, np.full(pair.horizon, cap)).caps.max() <= cap + 1e-14
    assert largest_path(fam.path_budgeted(pair, total)) <= total + 1e-13
    inside = fam.budgeted(pair, budget)
    assert gate.excess_over(inside, budget) <= 1e-14
    np.testing.assert_allclose([level.sum(axis=1).max() for level in inside.pi], 1, atol=1e-14)


def test_adversaries_have_the_divergence_they_promise():
    caps = np.array([0.25, 0.5, 0.125])
    np.testing.assert_allclose(fam.rare_token(caps, vocab=3).caps, caps)
    lottery = fam.lottery(4, cap=0.2, mean=0.05)
    np.testing.assert_allclose(lottery.drift, 0.05)
    np.testing.assert_allclose(lottery.caps, 0.2)


def test_random_pairs_are_normalised_and_supported():
    rng = np.random.default_rng(0)
    for pair in (fam.random_pair(rng, 3, 3, prompts=2), fam.noisy_pair(rng, 3, 2, 0.5)):
        assert pair.supported
        assert pair.reach_pi[-1].sum() == pytest.approx(1)


def test_shapes_that_disagree_are_refused():
    level = np.full((1, 2), 0.5)
    with pytest.raises(ValueError, match="pi has level shapes"):
        tab.Pair((level,), (level, level), np.ones(1))


# --- gates and flows --------------------------------------------------------------------------------------------------


@given(RAW.map(pair_with_budget), st.booleans())
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


@given(RAW.map(pair_with_budget))
def test_the_gated_surrogate_is_the_surrogate_of_the_gated_policy(case):
    pair, budget = case
    rewards = np.arange(len(pair.reach_mu[-1])) % 3 - 1.0
    gates = gate.hard_gates(pair, budget)
    weighted = pair.reach_mu[-1] @ (pair.along_paths(gates) * pair.path_excess * (rewards - 0.25)).sum(axis=0)
    assert tab.surrogate(gate.gated(pair, budget), rewards) == pytest.approx(weighted, abs=1e-10)


def test_rate_against_a_finite_difference():
    mu, pi, step = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.35, 0.45]), 1e-6
    logits = np.log(pi) + step * ((np.arange(3) == 1) - pi)
    moved = np.exp(logits) / np.exp(logits).sum()
    difference = (abs(moved - mu).sum() - abs(pi - mu).sum()) / 2 / step
    assert flow.toward_step_tv_rate(mu, pi, 1, 1) == pytest.approx(difference, abs=1e-5)


def test_slopes_of_both_signs_are_refused():
    with pytest.raises(ValueError, match="must be positive"):
        flow.shared_parameter_flow(np.array([1.0, -1.0]), Budget(0.15, 0.02, np.ones(2)))


# --- programmes -------------------------------------------------------------------------------------------------------


def vectors(size: int) -> st.SearchStrategy[Array]:
    numbers = st.integers(0, 64).map(lambda k: k / 16)
    return st.lists(numbers, min_size=size, max_size=size).map(np.array)


@pytest.mark.slow
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(vectors(n), vectors(n), vectors(n))))
def test_greedy_is_the_simplex_optimum(case):
    coefficients, caps, limits = case
    value, z = programs.greedy(coefficients, caps, limits)
    assert value == pytest.approx(programs.linear_program(coefficients, caps, limits), abs=1e-9)
    assert (z <= caps + 1e-12).all()
    assert (np.cumsum(z) <= limits + 1e-12).all()


def test_a_programme_without_a_grid_is_refused():
    with pytest.raises(ValueError, match=r"delta=0"):
        programs.exact_supremum(Budget(0.0, 0.1, np.ones(2)))
    with pytest.raises(ValueError, match="positive weights"):
        programs.exact_supremum(Budget.linear(3, w_min=0.0))
