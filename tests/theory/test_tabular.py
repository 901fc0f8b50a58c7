"""Tabular policies against plain Python over every response, and constructors against their premises."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.theory.strategies import pairs, pairs_with_budget
from theory import families as fam
from theory import tabular as tab
from theory.gate import excess_over
from theory.pair_bounds import largest_path


@pytest.mark.slow
@given(pairs(exact=True), st.lists(st.integers(-4, 4), min_size=27, max_size=27))
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


@given(pairs())
def test_what_is_read_off_a_pair(pair):
    mu, pi = pair.reach_mu[-1], pair.reach_pi[-1]
    np.testing.assert_allclose(pair.drift, mu @ pair.path_divergence.T, atol=1e-14)
    np.testing.assert_allclose(pair.caps, pair.path_divergence.max(axis=1))
    np.testing.assert_allclose(tab.suffix_tv(pair, 0), [tab.total_variation(mu, pi)], atol=1e-14)
    assert tab.sequence_kl(pair) == pytest.approx(float(tab.kl(mu, pi)), abs=1e-12)


@given(pairs_with_budget(), st.floats(0, 1), st.floats(0, 3))
def test_constructors_meet_their_premise(case, cap, total):
    pair, budget = case
    assert fam.capped(pair, np.full(pair.horizon, cap)).caps.max() <= cap + 1e-14
    assert largest_path(fam.path_budgeted(pair, total)) <= total + 1e-13
    inside = fam.budgeted(pair, budget)
    assert excess_over(inside, budget) <= 1e-14
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
