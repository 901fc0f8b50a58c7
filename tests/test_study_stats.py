"""The study's statistics: each against a case done by hand and against its definition spelled out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.study.stats import (
    Interval,
    area_under_curve,
    better,
    bootstrap,
    has_collapsed,
    holm,
    iqm,
    paired_difference,
    paired_p,
    performance_profile,
    permutation_p,
    probability_of_improvement,
    resample,
    share,
    worst_late,
)

scores = st.lists(st.integers(0, 16).map(lambda i: i / 16), min_size=1, max_size=12).map(np.array)


def mean(draws: np.ndarray) -> np.ndarray:
    return draws.mean(-1)


def test_iqm_by_hand() -> None:
    assert iqm(np.array([9.0, 1.0, 2.0, 3.0])) == 2.5  # one cut on each side
    assert iqm(np.array([0.0, 1.0, 2.0, 3.0, 100.0])) == 2.0
    assert iqm(np.array([0.0, 1.0])) == 0.5  # too few to cut


@given(scores)
def test_iqm_is_the_mean_of_the_middle(values: np.ndarray) -> None:
    ordered, cut = sorted(values), len(values) // 4
    middle = ordered[cut : len(ordered) - cut]
    assert iqm(values) == pytest.approx(sum(middle) / len(middle))
    assert iqm(np.stack([values, values]))[1] == pytest.approx(float(iqm(values)))


@given(scores, scores)
def test_better_counts_pairs(x: np.ndarray, y: np.ndarray) -> None:
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(x, y))
    assert better(x, y) == pytest.approx(wins / (len(x) * len(y)))
    assert better(x, y) + better(y, x) == pytest.approx(1)


def test_bootstrap_of_two_scores_by_enumeration() -> None:
    """Resamples of {0, 1} have means 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the 60 % interval is [0, 1]."""
    assert bootstrap([np.array([0.0, 1.0])], mean, level=0.6) == Interval(0.5, 0.0, 1.0)
    assert bootstrap([np.array([0.0, 1.0])], mean, level=0.4) == Interval(0.5, 0.5, 0.5)


def test_bootstrap_against_a_loop() -> None:
    strata = [np.array([0.1, 0.5, 0.9, 0.4]), np.array([0.2, 0.3])]
    drawn = resample(strata, 500, seed=7)
    values = []
    for r in range(500):
        pooled = sorted([*drawn[0][r], *drawn[1][r]])
        values.append(sum(pooled[1:-1]) / 4)
    found = bootstrap(strata, resamples=500, seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert found.value == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)


def test_strata_are_resampled_apart() -> None:
    """Two constant settings: whatever is drawn, half of each resample is of either, so nothing varies."""
    assert bootstrap([np.zeros(3), np.ones(3)], mean) == Interval(0.5, 0.5, 0.5)


def test_the_interval_covers_at_about_its_level() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        found = bootstrap([rng.normal(0, 1, 30)], mean, resamples=300, seed=i)
        hits += found.low <= 0 <= found.high
    assert 0.87 <= hits / 200 <= 0.99


@given(scores, scores)
def test_improvement_against_a_loop(x: np.ndarray, y: np.ndarray) -> None:
    found = probability_of_improvement([x], [y], resamples=40, seed=3)
    i, j = resample([np.arange(len(x))], 40, 3)[0], resample([np.arange(len(y))], 40, 4)[0]
    looped = [float(better(x[a.astype(int)], y[b.astype(int)])) for a, b in zip(i, j, strict=True)]
    assert found.value == pytest.approx(float(better(x, y)))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(looped, [2.5, 97.5])))


def test_improvement_averages_settings() -> None:
    wins, loses = np.array([1.0, 1.0]), np.array([0.0, 0.0])
    assert probability_of_improvement([wins, loses], [loses, wins]) == Interval(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="2 and 1 settings"):
        probability_of_improvement([wins, loses], [wins])


def test_permutation_p_by_enumeration() -> None:
    """Every way to deal out the labels within each setting, counted: at least as far from one half as was seen."""
    x, y = [np.array([3.0, 4.0, 4.0]), np.array([1.0, 5.0])], [np.array([1.0, 4.0]), np.array([0.0, 2.0])]
    dealt = []
    for a, b in zip(x, y, strict=True):
        pool = np.concatenate([a, b])
        ways = itertools.combinations(range(len(pool)), len(a))
        dealt.append([float(better(pool[list(way)], np.delete(pool, way))) for way in ways])
    seen = np.mean([better(a, b) for a, b in zip(x, y, strict=True)])
    far = [abs((one + other) / 2 - 0.5) >= abs(seen - 0.5) - 1e-9 for one in dealt[0] for other in dealt[1]]
    assert permutation_p(x, y, seed=1) == pytest.approx(np.mean(far), abs=0.015)
    assert permutation_p(y, x, seed=1) == pytest.approx(np.mean(far), abs=0.015)


def test_three_runs_prove_nothing() -> None:
    """The resampled interval of three clear wins is a point at 1; two of the 20 ways to label six runs look like it."""
    x, y = np.array([0.7, 0.8, 0.9]), np.array([0.1, 0.2, 0.3])
    assert probability_of_improvement([x], [y]) == Interval(1.0, 1.0, 1.0)
    assert permutation_p([x], [y]) == pytest.approx(0.1, abs=0.01)
    assert permutation_p([np.linspace(0.7, 0.9, 5)], [np.linspace(0.1, 0.3, 5)]) == pytest.approx(2 / 252, abs=0.003)


def test_permutation_p_errs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [permutation_p([rng.normal(0, 1, 6)], [rng.normal(0, 1, 6)], 400, seed=i) for i in range(400)]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.08


def test_equal_scores_are_not_told_apart() -> None:
    assert permutation_p([np.ones(9)], [np.ones(9)]) == 1.0
    with pytest.raises(ValueError, match="2 and 1 settings"):
        permutation_p([np.ones(2), np.ones(2)], [np.ones(2)])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_step_by_step(p_values: list[float]) -> None:
    left, expected, reached = sorted(range(len(p_values)), key=lambda i: p_values[i]), {}, 0.0
    while left:
        reached = max(reached, min(1.0, len(left) * p_values[left[0]]))
        expected[left.pop(0)] = reached
    assert holm(p_values) == pytest.approx([expected[i] for i in range(len(p_values))])


@pytest.mark.parametrize(("runs", "covered"), [(3, 0.74), (5, 0.89), (20, 0.945)])
def test_the_page_says_how_often_the_intervals_cover(runs: int, covered: float) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1, (300, runs))
    found = [bootstrap([scores], resamples=300, seed=i) for i, scores in enumerate(samples)]
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(covered, abs=0.05)


@given(scores)
def test_a_profile_counts_runs(values: np.ndarray) -> None:
    thresholds = np.linspace(0, 1, 5)
    expected = [sum(v > t for v in values) / len(values) for t in thresholds]
    assert performance_profile(values, thresholds).tolist() == pytest.approx(expected)


def test_paired_difference_removes_what_seeds_share() -> None:
    seeds = np.array([0.1, 0.5, 0.9])
    found = paired_difference([seeds + 0.05], [seeds])
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    with pytest.raises(ValueError, match="pair them"):
        paired_difference([seeds], [seeds[:2]])


def test_wilson_by_hand() -> None:
    """0 of 20 at z = 1.96: z^2 / (n + z^2)."""
    z = 1.959964
    found = share(0, 20)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(z**2 / (20 + z**2), abs=1e-6)
    assert share(20, 20).low == pytest.approx(1 - found.high)


def test_curves_by_hand() -> None:
    x, y = np.array([0, 1, 3, 4]), np.array([0.0, 1.0, 0.5, 0.7])
    assert area_under_curve(x, y) == pytest.approx((0.5 + 1.5 + 0.6) / 4)
    assert area_under_curve(x[:1], y[:1]) == 0.0
    assert worst_late(x, y) == 0.5
    assert worst_late(np.array([0, 1, 2]), np.array([0.0, 0.8, 0.9])) == 0.8  # the middle counts as late


@given(st.lists(st.integers(0, 8), min_size=2, max_size=9))
def test_area_against_a_fine_grid(heights: list[int]) -> None:
    x, y = np.arange(len(heights)), np.array(heights, float)
    fine = np.linspace(0, len(heights) - 1, 2 * 1000 * (len(heights) - 1) + 1)
    middles = (fine[1:] + fine[:-1]) / 2
    assert area_under_curve(x, y) == pytest.approx(float(np.interp(middles, x, y).mean()), abs=1e-6)


def test_the_rule_of_collapse() -> None:
    assert has_collapsed(0.3, 0.149, 0.5)
    assert not has_collapsed(0.3, 0.15, 0.5)


def test_no_scores_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no scores"):
        bootstrap([np.array([])])


def test_text() -> None:
    assert Interval(0.871, 0.8, 1.0).text() == ".87 [.80, 1.00]"
    assert Interval(-0.031, -0.12, 0.04).text() == "-.03 [-.12, .04]"


def test_signs_dealt_out_by_lot_against_all_of_them() -> None:
    first, second = np.array([0.3, 0.5, 0.9, 0.4]), np.array([0.1, 0.6, 0.2, 0.1])
    differences = first - second
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=4)]
    exact = np.mean([flip >= abs(differences.sum()) - 1e-9 for flip in flips])
    assert paired_p([first[:2], first[2:]], [second[:2], second[2:]]) == pytest.approx(exact, abs=0.02)
    assert paired_p([np.ones(3)], [np.zeros(3)]) > 0.2 > paired_p([np.ones(20)], [np.zeros(20)])
    with pytest.raises(ValueError, match="pair them"):
        paired_p([first], [second[:2]])


def test_three_equals_seldom_lean() -> None:
    """A resampled interval of three differences excludes zero whenever they agree: once in four."""
    rng = np.random.default_rng(0)
    passed = [paired_p([rng.normal(size=3)], [rng.normal(size=3)], 999) < 0.05 for _ in range(100)]
    assert not any(passed)
