"""Statistics of few, skewed runs: robust centres, resampled intervals, and comparisons that use whole distributions.

After Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264). Scores
come in strata (one for each setting); each stratum is resampled apart, so that every resample holds as many runs of
each setting as there are. An interval is the percentile interval of the resamples. Of 20 runs such an interval covers
about as often as it says; of five runs in nine cases of ten, of three in three of four. So what is called better also
has to pass a permutation test, which is exact for few runs, with Holm's correction for the number of comparisons.

Ours, and not SciPy's `bootstrap` and `permutation_test`, with which they agree: those refuse a stratum of one run,
which an unfinished study has, and deal labels out over all strata together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import binomtest, rankdata, trim_mean

Strata = Sequence[np.ndarray]  # one (n_i,) array of scores for each setting
RESAMPLES = 2000
PERMUTATIONS = 9999  # with the observed labels, 10,000
TAILS = 2.5, 97.5  # percentiles: the ends of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """`.87 [.80, .93]`, without the leading zeros that a table can do without.

        >>> Interval(-0.031, -0.12, 1.0).text()
        '-.03 [-.12, 1.00]'
        """
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


def short(x: float) -> str:
    """Two digits, without a leading zero."""
    return f"{x:.2f}".replace("0.", ".", 1) if abs(x) < 1 else f"{x:.2f}"


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest floor(n / 4) scores.

    >>> float(iqm(np.array([0.0, 0.5, 0.7, 0.9])))
    0.6
    """
    return np.asarray(trim_mean(scores, 0.25, axis=axis))


def resample(strata: Strata, resamples: int, seed: int) -> list[np.ndarray]:
    """`resamples` draws with replacement of each stratum: (R, n_i) arrays.

    Raises:
        ValueError: a stratum without scores.
    """
    rng = np.random.default_rng(seed)
    if not all(map(len, strata)):
        raise ValueError("a stratum has no scores: leave out settings without finished runs")
    return [np.asarray(scores, float)[rng.integers(0, len(scores), (resamples, len(scores)))] for scores in strata]


def bootstrap_band(
    strata: Strata, statistic: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic of all scores together, and the ends of its stratified percentile interval.

    `statistic` maps (R, n) to (R,), or to (R, k) for a band of k intervals; so do strata of (n_i, k).
    """
    draws = np.concatenate(resample(strata, resamples, seed), axis=1)
    whole = np.concatenate([np.asarray(scores, float) for scores in strata])
    low, high = np.percentile(statistic(draws), TAILS, axis=0)
    return statistic(whole[None])[0], low, high


def bootstrap(
    strata: Strata,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """`bootstrap_band` for a statistic that is one number."""
    return Interval(*map(float, bootstrap_band(strata, statistic, resamples, seed)))


def better(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 for a run X of the (..., n) first and an independent run Y of the (..., m) second scores.

    >>> float(better(np.array([1.0, 2.0]), np.array([0.0, 2.0])))
    0.625
    """
    x, y = first[..., :, None], second[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def probability_of_improvement(first: Strata, second: Strata, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """`better`, averaged over the settings that both were run in, with its stratified interval.

    Raises:
        ValueError: the two do not have the same number of settings.
    """
    _require(len(first) == len(second), f"{len(first)} and {len(second)} settings: compare on the same settings")
    drawn = zip(resample(first, resamples, seed), resample(second, resamples, seed + 1), strict=True)
    value = np.mean([better(x, y) for x, y in zip(first, second, strict=True)])
    low, high = np.percentile(np.mean([better(x, y) for x, y in drawn], axis=0), TAILS)
    return Interval(float(value), float(low), float(high))


def permutation_p(first: Strata, second: Strata, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided P-value of an improvement this far from one half, if labels in each setting were drawn by lot.

    Three runs against three give 0.1 at the least, whatever their scores: a resampled interval does not notice.

    Raises:
        ValueError: the two do not have the same number of settings.
    """
    _require(len(first) == len(second), f"{len(first)} and {len(second)} settings: compare on the same settings")
    rng = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(permutations)
    for x, y in zip(first, second, strict=True):
        ranks = rankdata(np.concatenate([x, y]))  # ties share their mean rank, as they count half in `better`
        shuffled = rng.permuted(np.broadcast_to(ranks, (permutations, len(ranks))), axis=1)
        middle, pairs = len(x) * (len(ranks) + 1) / 2, len(x) * len(y)
        observed += (ranks[: len(x)].sum() - middle) / pairs  # better(x, y) - 1/2
        drawn += (shuffled[:, : len(x)].sum(1) - middle) / pairs
    return _as_far(drawn, observed)


def paired_p(first: Strata, second: Strata, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided P-value of a mean difference this far from zero, if each pair's sign were drawn by lot.

    Three pairs give 0.25 at the least, five 0.06: `paired_difference` excludes zero whenever three agree.

    Raises:
        ValueError: not one score of each for every seed.
    """
    differences = np.concatenate(_differences(first, second))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (permutations, len(differences)))
    return _as_far(signs @ differences, differences.sum())


def paired_difference(first: Strata, second: Strata, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of first - second over seeds and settings, with its interval.

    The same seed means the same problems and noise, so that differences vary less than the scores do.

    Raises:
        ValueError: not one score of each for every seed.
    """
    return bootstrap(_differences(first, second), lambda draws: draws.mean(-1), resamples, seed)


def seeds_needed(first: Strata, second: Strata) -> int | None:
    """Pairs at which a mean difference as large as this one would be found four times in five, by a z-test at 5 %.

    None where the difference is 0, or there are too few pairs to see how much they vary.
    """
    differences = np.concatenate(_differences(first, second))
    mean, noise = differences.mean(), differences.std(ddof=1) if len(differences) > 1 else 0.0
    return int(np.ceil(((1.96 + 0.84) * noise / mean) ** 2)) if mean and noise else None


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down rule: below 0.05, at most one in twenty families errs.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    result = np.empty(len(p_values))
    result[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, float)[order] * factors))
    return [float(p) for p in result]


def share(hits: int, runs: int) -> Interval:
    """A share of runs with Wilson's interval, which does not shrink to a point at 0 or at 1."""
    ends = binomtest(hits, runs).proportion_ci(0.95, method="wilson")
    return Interval(hits / runs, float(ends.low), float(ends.high))


def area_under_curve(x: np.ndarray, y: np.ndarray) -> float:
    """Mean height of the curve through the points, by trapezia.

    >>> area_under_curve(np.array([0, 1, 3]), np.array([0.0, 1.0, 1.0]))
    0.8333333333333334
    """
    return float(trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])


def worst_window(y: np.ndarray, width: int = 10) -> float:
    """Lowest mean of `width` points in a row after the first fifth (of all there are, where they are fewer).

    >>> worst_window(np.array([0.0, 0.9, 0.5, 0.7, 0.9]), width=2)
    0.6
    """
    late = y[len(y) // 5 :]
    width = min(width, len(late))
    return float(np.convolve(late, np.full(width, 1 / width), "valid").min())


def first_at(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """The first x where y is at least `level`; one more than the last where it never is.

    >>> first_at(np.array([0, 4, 8]), np.array([0.2, 0.95, 0.8]), 0.9), first_at(np.array([0, 4]), np.zeros(2), 0.9)
    (4.0, 5.0)
    """
    there = np.flatnonzero(y >= level)
    return float(x[there[0]] if len(there) else x[-1] + 1)


def _differences(first: Strata, second: Strata) -> list[np.ndarray]:
    sizes = [[len(scores) for scores in side] for side in (first, second)]
    _require(sizes[0] == sizes[1], f"{sizes[0]} and {sizes[1]} scores: pair them by setting and seed first")
    return [np.asarray(x, float) - np.asarray(y, float) for x, y in zip(first, second, strict=True)]


def _as_far(drawn: np.ndarray, observed: float) -> float:
    """The share of draws at least as far from 0 as was observed, the observation among them."""
    return float((1 + np.sum(np.abs(drawn) >= abs(observed) - 1e-9)) / (1 + len(drawn)))


def _require(fulfilled: bool, otherwise: str) -> None:
    if not fulfilled:
        raise ValueError(otherwise)
