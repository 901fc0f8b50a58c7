"""The study's statistics: against cases done by hand, against their definitions spelled out, and against SciPy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from experiments.study.stats import (
    Interval,
    better,
    bootstrap,
    holm,
    iqm,
    paired_difference,
    paired_p,
    permutation_p,
    probability_of_improvement,
    seeds_needed,
)

scores = st.lists(st.integers(0, 16).map(lambda i: i / 16), min_size=1, max_size=12).map(np.array)


@given(scores, scores)
def test_better_counts_pairs(x, y):
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(x, y))
    assert better(x, y) == pytest.approx(wins / (len(x) * len(y)))
    assert better(x, y) + better(y, x) == pytest.approx(1)


@pytest.mark.parametrize("sizes", [(2,), (3, 4, 9)])
def test_the_bootstrap_is_scipy_s(sizes):
    """Number for number: SciPy draws each sample apart as well. Only a stratum of one run it does not take."""
    strata = [np.random.default_rng(n).random(n) for n in sizes]
    theirs = scipy_stats.bootstrap(
        strata, lambda *draws, axis: iqm(np.concatenate(draws, axis), axis), n_resamples=500, method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    ours = bootstrap(strata, resamples=500, seed=7)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.value == pytest.approx(float(iqm(np.concatenate(strata))))
    assert bootstrap([np.array([0.5])]) == Interval(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="has no scores"):
        bootstrap([np.array([])])


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "covered"), [(3, 0.74), (5, 0.89), (20, 0.945)])
def test_the_page_says_how_often_the_intervals_cover(runs, covered):
    samples = np.random.default_rng(0).normal(0, 1, (300, runs))
    found = [bootstrap([scores], resamples=300, seed=i) for i, scores in enumerate(samples)]
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(covered, abs=0.05)


def test_improvement_averages_settings():
    wins, loses = np.array([1.0, 1.0]), np.array([0.0, 0.0])
    assert probability_of_improvement([wins, loses], [loses, wins]) == Interval(0.5, 0.5, 0.5)
    for compare in (probability_of_improvement, permutation_p):
        with pytest.raises(ValueError, match="2 and 1 settings"):
            compare([wins, loses], [wins])


def test_permutation_p_by_enumeration():
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


def test_three_runs_prove_nothing():
    """The resampled interval of three clear wins is a point at 1; two of the 20 ways to label six runs look like it."""
    x, y = np.array([0.7, 0.8, 0.9]), np.array([0.1, 0.2, 0.3])
    assert probability_of_improvement([x], [y]) == Interval(1.0, 1.0, 1.0)
    assert permutation_p([x], [y]) == pytest.approx(0.1, abs=0.01)
    assert permutation_p([np.ones(9)], [np.ones(9)]) == 1.0


def test_dealt_signs_are_scipy_s():
    """Exactly, for few runs."""
    x, y = np.random.default_rng(1).normal(0.3, 1, (2, 7))
    theirs = scipy_stats.permutation_test(
        (x - y,), lambda d, axis: abs(d.sum(axis)), permutation_type="samples", alternative="greater"
    ).pvalue
    assert paired_p([x[:3], x[3:]], [y[:3], y[3:]]) == pytest.approx(theirs, abs=0.02)


@pytest.mark.slow
def test_p_values_err_as_often_as_they_say():
    """Where a resampled interval of three differences excludes zero whenever they agree: once in four."""
    rng = np.random.default_rng(0)
    found = [permutation_p([rng.normal(0, 1, 6)], [rng.normal(0, 1, 6)], 400, seed=i) for i in range(400)]
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.08
    assert not any(paired_p([rng.normal(size=3)], [rng.normal(size=3)], 999) < 0.05 for _ in range(100))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_step_by_step(p_values):
    left, expected, reached = sorted(range(len(p_values)), key=lambda i: p_values[i]), {}, 0.0
    while left:
        reached = max(reached, min(1.0, len(left) * p_values[left[0]]))
        expected[left.pop(0)] = reached
    assert holm(p_values) == pytest.approx([expected[i] for i in range(len(p_values))])


def test_paired_difference_removes_what_seeds_share():
    seeds = np.array([0.1, 0.5, 0.9])
    found = paired_difference([seeds + 0.05], [seeds])
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    for compare in (paired_difference, paired_p):
        with pytest.raises(ValueError, match="pair them"):
            compare([seeds], [seeds[:2]])


def test_with_the_seeds_needed_four_of_five_studies_find_the_difference():
    rng = np.random.default_rng(0)
    seen = rng.normal(0, 1, 50)
    seen = 0.5 + (seen - seen.mean()) / seen.std(ddof=1)  # pairs that differ by 0.5 with a deviation of 1
    needed = seeds_needed([seen[:20], seen[20:]], [np.zeros(20), np.zeros(30)])
    drawn = rng.normal(0.5, 1, (4000, needed))
    found = abs(drawn.mean(1)) > 1.96 / np.sqrt(needed)
    assert found.mean() == pytest.approx(0.8, abs=0.03)
    assert seeds_needed([np.ones(3)], [np.ones(3)]) is None
    assert seeds_needed([np.ones(1)], [np.zeros(1)]) is None
