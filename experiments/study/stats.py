"""Statistics of few, skewed runs: robust centres, resampled intervals, and comparisons that use whole distributions.

After Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264). Scores
come in strata (one for each setting); each stratum is resampled apart, so that every resample holds as many runs of
each setting as there are. An interval is the percentile interval of the resamples. Of 20 runs such an interval covers
about as often as it says; of five runs in nine cases of ten, of three in three of four. So what is called better also
has to pass a permutation test, which is exact for few runs, with Holm's correction for the number of comparisons.
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
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """`.87 [.80, .93]`, without the leading zeros that a table can do without."""

        def short(number: float) -> str:
            written = f"{scale * number:.{digits}f}"
            return written.replace("0.", ".", 1) if abs(scale * number) < 1 and digits else written

        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest floor(n / 4) scores.

    >>> float(iqm(np.array([0.0, 0.5, 0.7, 0.9])))
    0.6
    """
    return np.asarray(trim_mean(scores, 0.25, axis=axis))


def bootstrap(
    strata: Strata,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A statistic of all scores together, with its stratified percentile interval.

    `statistic` maps (R, n) to (R,), or to (R, k) for `bootstrap_band`.

    Raises:
        ValueError: a stratum without scores.
    """
    value, low, high = bootstrap_band(strata, statistic, resamples, level, seed)
    return Interval(float(value), float(low), float(high))


def bootstrap_band(
    strata: Strata,
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Like `bootstrap` for a statistic with (R, k) values: estimate, low and high ends, (k,) each."""
    draws = np.concatenate(resample(strata, resamples, seed), axis=1)
    whole = np.concatenate([np.asarray(scores, float) for scores in strata])
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(statistic(draws), [tail, 100 - tail], axis=0)
    return statistic(whole[None])[0], low, high


def resample(strata: Strata, resamples: int, seed: int) -> list[np.ndarray]:
    """`resamples` draws with replacement of each stratum: (R, n_i) arrays."""
    rng = np.random.default_rng(seed)
    drawn = []
    for scores in strata:
        scores = np.asarray(scores, float)
        if not len(scores):
            raise ValueError("a stratum has no scores: leave out settings without finished runs")
        drawn.append(scores[rng.integers(0, len(scores), (resamples, len(scores)))])
    return drawn


def better(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P(X > Y) + P(X = Y) / 2 for a run X of the (..., n) first and an independent run Y of the (..., m) second scores.

    >>> float(better(np.array([1.0, 2.0]), np.array([0.0, 2.0])))
    0.625
    """
    x, y = first[..., :, None], second[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))


def probability_of_improvement(
    first: Strata, second: Strata, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """`better`, averaged over the settings that both were run in, with its stratified interval.

    Raises:
        ValueError: the two do not have the same number of settings.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} settings: compare methods on the same settings")
    value = np.mean([better(np.asarray(x, float), np.asarray(y, float)) for x, y in zip(first, second, strict=True)])
    sides = ([np.arange(len(scores)) for scores in side] for side in (first, second))
    drawn = [resample(side, resamples, seed + i) for i, side in enumerate(sides)]
    means = np.zeros(resamples)
    for x, y, i, j in zip(first, second, *drawn, strict=True):
        wins = better(np.asarray(x, float)[:, None, None], np.asarray(y, float)[None, :, None])  # run by run
        means += ((_counts(i) @ wins) * _counts(j)).sum(1) / wins.size
    means /= len(first)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def permutation_p(first: Strata, second: Strata, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided P-value of an improvement this far from one half, if labels in each setting were drawn by lot.

    Three runs against three give 0.1 at the least, whatever their scores: a resampled interval does not notice.

    Raises:
        ValueError: the two do not have the same number of settings.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} settings: compare methods on the same settings")
    rng = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(permutations)
    for x, y in zip(first, second, strict=True):
        ranks = rankdata(np.concatenate([x, y]))  # ties share their mean rank, as they count half in `better`
        shuffled = rng.permuted(np.broadcast_to(ranks, (permutations, len(ranks))), axis=1)
        middle, pairs = len(x) * (len(ranks) + 1) / 2, len(x) * len(y)
        observed += (ranks[: len(x)].sum() - middle) / pairs  # better(x, y) - 1/2
        drawn += (shuffled[:, : len(x)].sum(1) - middle) / pairs
    return float((1 + np.sum(np.abs(drawn) >= abs(observed) - 1e-9)) / (1 + permutations))


def paired_p(first: Strata, second: Strata, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided P-value of a mean difference this far from zero, if each pair's sign were drawn by lot.

    Three pairs give 0.25 at the least, five 0.06: `paired_difference` excludes zero whenever three agree.

    Raises:
        ValueError: not one score of each for every seed.
    """
    differences = np.concatenate(_differences(first, second))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (permutations, len(differences)))
    as_far = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return float((1 + np.sum(as_far)) / (1 + permutations))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down rule: below 0.05, at most one in twenty families errs.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, float)[order] * factors))
    result = np.empty(len(p_values))
    result[order] = corrected
    return [float(p) for p in result]


def _counts(drawn: np.ndarray) -> np.ndarray:
    """How often each of n runs is in each resample: (R, n) indices to (R, n) counts."""
    n = drawn.shape[1]
    flat = drawn.astype(int) + n * np.arange(len(drawn))[:, None]
    return np.bincount(flat.ravel(), minlength=drawn.size).reshape(drawn.shape)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of the (..., n) scores above each of the (k,) thresholds: (..., k).

    >>> performance_profile(np.array([0.2, 0.6]), np.array([0.0, 0.5, 0.9])).tolist()
    [1.0, 0.5, 0.0]
    """
    return (scores[..., :, None] > thresholds).mean(-2)


def paired_difference(
    first: Strata, second: Strata, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Mean of first - second over seeds and settings, with its interval.

    The same seed means the same problems and noise, so that differences vary less than the scores do.

    Raises:
        ValueError: not one score of each for every seed.
    """
    return bootstrap(_differences(first, second), lambda draws: draws.mean(-1), resamples, level, seed)


def _differences(first: Strata, second: Strata) -> list[np.ndarray]:
    sizes = [[len(scores) for scores in side] for side in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{sizes[0]} and {sizes[1]} scores: pair them by setting and seed first")
    return [np.asarray(x, float) - np.asarray(y, float) for x, y in zip(first, second, strict=True)]


def share(hits: int, runs: int, level: float = LEVEL) -> Interval:
    """A share of runs with Wilson's interval, which does not shrink to a point at 0 or at 1."""
    ends = binomtest(hits, runs).proportion_ci(level, method="wilson")
    return Interval(hits / runs, float(ends.low), float(ends.high))


def area_under_curve(x: np.ndarray, y: np.ndarray) -> float:
    """Mean height of the curve through the points, by trapezia.

    >>> area_under_curve(np.array([0, 1, 3]), np.array([0.0, 1.0, 1.0]))
    0.8333333333333334
    """
    return float(trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])


def worst_late(x: np.ndarray, y: np.ndarray) -> float:
    """Lowest point of the curve's second half, x >= its middle: what a run that was stopped late would risk.

    >>> worst_late(np.array([0, 1, 2]), np.array([0.1, 0.9, 0.8]))
    0.8
    """
    return float(y[2 * x >= x[0] + x[-1]].min())


def has_collapsed(start: float, final: float, share: float) -> bool:
    """The rule: a run has collapsed if its final accuracy is below `share` of the accuracy that it started from."""
    return final < share * start
