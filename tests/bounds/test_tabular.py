"""Tabular policies against plain Python over every response, and constructors against their premises."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds import families as fam
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds import tabular as tab
from minicppo.bounds.gate import excess_over

from .strategies import FEW, pairs, pairs_with_budget, pairs_with_rewards


@FEW
@given(pairs_with_rewards(exact=True))
def test_enumeration_agrees_with_plain_loops(case: tuple[tab.Pair, tab.Array]) -> None:
    pair, rewards = case
    v, horizon = pair.vocab, pair.horizon
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


@FEW
@given(pairs_with_rewards(exact=True, prompts=2))
def test_identity_is_exact(case: tuple[tab.Pair, tab.Array]) -> None:
    pair, rewards = case
    assert tab.residual(pair, rewards) == res.identity_residual(pair, rewards)
    assert tab.residual(pair, rewards) == -(rewards @ tab.kernel(pair))
    assert tab.kernel(pair).sum() == 0


def test_identity_needs_the_rollout_to_see_every_token() -> None:
    blind = tab.Pair((np.array([[1.0, 0.0]]),), (np.array([[0.5, 0.5]]),), np.ones(1))
    rewards = np.array([0.0, 1.0])
    assert not blind.supported
    assert tab.improvement(blind, rewards) == 0.5
    assert tab.surrogate(blind, rewards) == res.identity_residual(blind, rewards) == 0


@FEW
@given(pairs(exact=True), st.integers(0, 7))
def test_mixture_scales_the_divergence(pair: tab.Pair, sevenths: int) -> None:
    g = Fraction(sevenths, 7)
    for mixed, full in zip(fam.mixture(pair, g).divergence, pair.divergence, strict=True):
        assert (mixed == g * full).all()


@FEW
@given(pairs())
def test_drift_and_caps(pair: tab.Pair) -> None:
    per_path = pair.reach_mu[-1] @ pair.path_divergence.T
    np.testing.assert_allclose(pair.drift, per_path, atol=1e-14)
    np.testing.assert_allclose(pair.caps, pair.path_divergence.max(axis=1))


@FEW
@given(pairs())
def test_sequence_kl_is_the_leaf_kl(pair: tab.Pair) -> None:
    exact = float(tab.kl(pair.reach_mu[-1], pair.reach_pi[-1]))
    assert tab.sequence_kl(pair) == pytest.approx(exact, abs=1e-12)


@FEW
@given(pairs())
def test_suffix_from_the_root_is_the_whole_response(pair: tab.Pair) -> None:
    whole = tab.total_variation(pair.reach_mu[-1], pair.reach_pi[-1])
    np.testing.assert_allclose(tab.suffix_tv(pair, 0), [whole], atol=1e-14)


@FEW
@given(pairs(), st.floats(0, 1), st.floats(0, 3))
def test_capped_and_path_budgeted_meet_their_premise(pair: tab.Pair, cap: float, total: float) -> None:
    assert fam.capped(pair, np.full(pair.horizon, cap)).caps.max() <= cap + 1e-14
    assert sh.largest_path(fam.path_budgeted(pair, total)) <= total + 1e-13


@FEW
@given(pairs_with_budget())
def test_budgeted_meets_eq8(case: tuple[tab.Pair, fam.Budget]) -> None:
    pair, budget = case
    inside = fam.budgeted(pair, budget)
    assert excess_over(inside, budget) <= 1e-14
    np.testing.assert_allclose([level.sum(axis=1).max() for level in inside.pi], 1, atol=1e-14)


def test_adversaries_have_the_divergence_they_promise() -> None:
    caps = np.array([0.25, 0.5, 0.125])
    np.testing.assert_allclose(fam.rare_token(caps, vocab=3).caps, caps)
    draw = fam.lottery(4, cap=0.2, mean=0.05)
    np.testing.assert_allclose(draw.drift, 0.05)
    np.testing.assert_allclose(draw.caps, 0.2)


def test_random_pairs_are_normalised_and_supported() -> None:
    rng = np.random.default_rng(0)
    for pair in (fam.random_pair(rng, 3, 3, prompts=2), fam.noisy_pair(rng, 3, 2, 0.5)):
        assert pair.supported
        assert pair.reach_pi[-1].sum() == pytest.approx(1)


def test_shapes_that_disagree_are_refused() -> None:
    level = np.full((1, 2), 0.5)
    with pytest.raises(ValueError, match="pi has level shapes"):
        tab.Pair((level,), (level, level), np.ones(1))
