"""Confidence limits of a mean, and the test that shows whether a batch saw the branches that matter.

All take independent samples along the last axis, (.., n) with n >= 2, and work along any leading axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


def student_limits(values: Array, confidence: float = 0.95) -> tuple[Any, Any]:
    """Lower and upper limit of the mean by Student's t, (..). Premise: n large beside the skewness of the values."""
    count = values.shape[-1]
    half = scipy.special.stdtrit(count - 1, (1 + confidence) / 2) * values.std(axis=-1, ddof=1) / np.sqrt(count)
    return values.mean(axis=-1) - half, values.mean(axis=-1) + half


def betting_limit(values: Array, confidence: float = 0.95, steps: int = 50) -> Any:
    """A lower limit (..) of the mean of values >= 0, wrong with probability at most (1 - confidence) / 2 at any n.

    A gambler who stakes on "the mean is above m" multiplies his capital by 1 + stake (value - m); were m the mean, it
    would ever reach 1 / p with probability at most p. The limit is the largest m against which he got there. Stakes use
    the past alone and suit values about 1 (Waudby-Smith and Ramdas, "Estimating means by betting", 2023).
    """
    count, goal = values.shape[-1], -np.log((1 - confidence) / 2)
    seen = np.arange(1, count + 1)
    means = (np.cumsum(values, axis=-1) + 1) / (seen + 1)
    spread = (np.cumsum((values - means) ** 2, axis=-1) + 0.25) / (seen + 1)
    first = np.full_like(values[..., :1], 0.25)
    stakes = np.sqrt(2 * goal / count / np.concatenate([first, spread[..., :-1]], axis=-1))
    low, high = np.zeros(values.shape[:-1]), values.mean(axis=-1)
    for _ in range(steps):
        middle = (low + high) / 2
        safe = np.minimum(stakes, 0.9 / np.maximum(middle, 1e-12)[..., None])
        capital = np.cumsum(np.log1p(safe * (values - middle[..., None])), axis=-1).max(axis=-1)
        low, high = np.where(capital >= goal, middle, low), np.where(capital >= goal, high, middle)
    return low


def mean_score(values: Array) -> Any:
    """How many standard errors the mean lies above 0, as a normal score, (..): 0 if all values are 0.

    Few samples count less: the score has the probability that Student's t has. Minus infinity where every value is the
    same negative number.
    """
    count, mean = values.shape[-1], values.mean(axis=-1)
    error = values.std(axis=-1, ddof=1) / np.sqrt(count)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, mean / error)
    return -np.sign(t) * scipy.special.ndtri(scipy.special.stdtr(count - 1, -abs(t)))


def unseen_mass(excess: Array, level: float = 0.001) -> float:
    """How much probability pi moved to tokens that the batch does not show, by x = rho - 1, (n, T): else E x = 0.

    The sum of -mean x_t over positions whose mean is below 0 by more than chance, at `level` for all T together.
    """
    limit = scipy.special.ndtri(level / excess.shape[-1])
    means, scores = excess.mean(axis=0), mean_score(excess.T)
    return float(-means[scores < limit].sum())
