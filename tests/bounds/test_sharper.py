"""F1 to F5 and F7: never violated, attained where we say so, and consistent with each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds import families as fam
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds import tabular as tab
from minicppo.bounds.tabular import Array, Pair

from .strategies import FEW, pairs, pairs_with_rewards

caps_lists = st.lists(st.integers(0, 30).map(lambda k: k / 32), min_size=1, max_size=6).map(np.array)


@FEW
@given(pairs_with_rewards())
def test_worst_reward_is_a_supremum_and_attained(case: tuple[Pair, Array]) -> None:
    pair, rewards = case
    worst = sh.worst_reward(pair)
    assert abs(tab.residual(pair, rewards)) <= worst + 1e-12
    assert tab.residual(pair, -np.sign(tab.kernel(pair))) == pytest.approx(worst, abs=1e-12)


@FEW
@given(pairs_with_rewards(exact=True), st.integers(-3, 3))
def test_a_constant_reward_does_not_matter(case: tuple[Pair, Array], shift: int) -> None:
    pair, rewards = case
    assert tab.residual(pair, rewards + shift) == tab.residual(pair, rewards)


@FEW
@given(pairs_with_rewards(prompts=2))
def test_deviation_bound(case: tuple[Pair, Array]) -> None:
    pair, rewards = case
    assert abs(tab.residual(pair, rewards)) <= sh.deviation_bound(pair, rewards) + 1e-12


@FEW
@given(pairs())
def test_no_bound_of_ours_is_violated(pair: Pair) -> None:
    worst = sh.worst_reward(pair)
    total, largest = float(pair.drift.sum()), float(sh.largest_path(pair))
    assert worst <= sh.pair_certificate(pair) + 1e-12
    assert worst <= sh.cap_theorem(pair.caps) + 1e-12
    assert worst <= sh.path_budget(largest) + 1e-12
    assert worst <= sh.path_budget_finite(largest, pair.horizon) + 1e-12
    assert worst <= sh.expected_budget(total) + 1e-12
    assert worst <= sh.chi_square_budget(sh.largest_chi_square(pair)) + 1e-12


@FEW
@given(pairs_with_rewards())
def test_change_of_value_within_the_expected_budget(case: tuple[Pair, Array]) -> None:
    pair, rewards = case
    total = float(pair.drift.sum())
    assert abs(tab.improvement(pair, rewards)) <= sh.largest_change(total) + 1e-12
    assert abs(tab.surrogate(pair, rewards)) <= 2 * total + 1e-12  # so F5 alone certifies nothing


@FEW
@given(pairs())
def test_pair_certificate_sharpens_proposition4(pair: Pair) -> None:
    certificate = sh.pair_certificate(pair)
    assert certificate <= res.proposition4(pair.drift, pair.caps) + 1e-12
    assert certificate == pytest.approx(sh.pair_certificate_divergence(pair), abs=1e-12)


@FEW
@given(pairs())
def test_pair_certificate_against_a_double_loop(pair: Pair) -> None:
    x = abs(pair.path_excess)
    brute = sum(pair.reach_mu[-1] @ (x[t] * x[j]) for t, j in itertools.combinations(range(pair.horizon), 2))
    assert sh.pair_certificate(pair) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize("horizon", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cap_theorem_is_attained(horizon: int, seed: int) -> None:
    caps = np.random.default_rng(seed).uniform(0.05, 0.7, horizon)
    bound = sh.cap_theorem(caps)
    assert sh.worst_reward(fam.rare_token(caps, 1e-5)) == pytest.approx(bound, rel=1e-3)


@given(caps_lists)
def test_cap_theorem_against_a_double_loop(caps: Array) -> None:
    brute = 2 * sum(c * (1 - np.prod(np.delete(1 - caps, t))) for t, c in enumerate(caps))
    assert sh.cap_theorem(caps) == pytest.approx(brute, abs=1e-12)
    assert sh.cap_theorem(caps[::-1]) == pytest.approx(brute, abs=1e-12)  # position does not matter


@given(caps_lists)
def test_cap_theorem_solves_its_recursion(caps: Array) -> None:
    if len(caps) > 1:
        d, rest = caps[0], caps[1:]
        tv, total = 1 - np.prod(1 - rest), rest.sum()
        step = 2 * d * tv + 2 * d * total + (1 - d) * sh.cap_theorem(rest)
        assert sh.cap_theorem(caps) == pytest.approx(step, abs=1e-12)


@given(caps_lists)
def test_path_budget_covers_the_cap_theorem(caps: Array) -> None:
    total = float(caps.sum())
    assert sh.cap_theorem(caps) <= sh.path_budget(total) + 1e-12
    assert sh.cap_theorem(caps) <= sh.path_budget_finite(total, len(caps)) + 1e-12


def test_path_budget_is_nearly_sharp() -> None:
    pair = fam.rare_token(np.full(7, 2 / 7), 2.0**-20)
    assert sh.worst_reward(pair) / sh.path_budget(float(sh.largest_path(pair))) > 0.85
    early_and_late = fam.rare_token(np.array([1 - 2.0**-20, 1 - 2.0**-20]), 2.0**-20)
    assert sh.worst_reward(early_and_late) / sh.path_budget(2.0) > 0.999


def test_uniform_supremum_is_the_cap_theorem_and_linear() -> None:
    assert sh.uniform_supremum(9, 0.15) == pytest.approx(sh.cap_theorem(np.full(9, 0.15)))
    assert sh.uniform_supremum(8192, 0.15) == pytest.approx(2 * 8192 * 0.15)


def test_expected_budget_beats_theorem1_from_twelve_tokens() -> None:
    better = [sh.expected_budget(t * 0.02) < res.theorem1(t, 0.15, 0.02, 0.8) for t in range(2, 30)]
    assert better == [t >= 12 for t in range(2, 30)]


def test_chi_square_budget_is_free_of_the_horizon() -> None:
    assert sh.chi_square_budget(1e-3) == pytest.approx(1e-3 / np.sqrt(2), rel=1e-3)
    assert sh.chi_square_budget(1e4) == np.inf


def test_chi_square_budget_is_nearly_attained_in_mean_square() -> None:
    """The same step everywhere: the kernel's norm is (1 + v)^T - 1 - T v, close to e^(T v) - 1 - T v."""
    mu = tuple(np.full((2**t, 2), 0.5) for t in range(7))
    pi = tuple(np.tile([0.35, 0.65], (2**t, 1)) for t in range(7))
    pair = Pair(mu, pi, np.ones(1))
    norm = float(np.sqrt(pair.reach_mu[-1] @ (tab.kernel(pair) / pair.reach_mu[-1]) ** 2))
    assert 0.85 < norm / sh.chi_square_budget(sh.largest_chi_square(pair)) <= 1
