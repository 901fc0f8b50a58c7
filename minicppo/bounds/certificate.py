"""A live certificate of improvement, estimated from rollouts alone (ours).

    certificate = certify(log_probs, rollout_log_probs, rewards, response_mask, groups=group_ids)
    log(certificate.rows())  # {"certificate/surrogate": .., "certificate/certified": 0.0 or 1.0, ..}

Call it after an optimiser step, with log_probs of the NEW policy and with every row of the rollout: also the groups
whose rewards do not vary, which the loss may drop, since the residual counts them. Means over responses estimate, with
x_t = rho_t - 1:

    surrogate L'    E_mu[(R - b) sum_t x_t], b the mean of the group's others (the plain mean would shrink L' by
                    1 - 1/G), or 0 without groups
    pair     F2     2 xi E_mu sum_t |x_t| sum_{j>t} D_j; without a divergence xi E_mu sum_{t<j} |x_t| |x_j|
    expected F5     2 xi (U + min(1, U)), U = E_mu sum_t D_t; without a divergence E_mu sum_t |x_t| / 2
    gain            L' - min(F2, F5) <= J(pi) - J(mu); "certified" if its lower confidence limit is positive

Premises: pi << mu; log-probs of the untruncated sampling distribution on both sides; |R - c| <= xi = reward_range / 2;
a divergence, if given, is the exact TV of s_t (Binary and Top-K scores lie below it and void F2 and F5). Groups are
independent draws of a prompt. F5 alone never certifies (L' <= 2 xi U), it limits how far J can have moved.

Judge on responses that mu samples afresh: on the batch an update maximised L' is optimistic, and "certified" describes
that batch only. And sampling cannot show a branch that mu visits once in a million responses, where |x| may be huge: a
certificate holds at its nominal rate only when ratios are not heavy tailed (pathwise F3, F4, F7: not from rollouts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit  # scipy.stats would cost a second of every start

from minicppo.bounds.residual import suffix_sums
from minicppo.bounds.sharper import expected_budget, largest_change

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap percentile interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Certificate:
    """Estimates in reward units (divergence: total TV per response), with intervals of level `confidence`."""

    surrogate: Interval
    pair: Interval
    expected: Interval
    gain: Interval
    divergence: Interval
    largest_change: float
    confidence: float
    responses: int
    groups: int

    @property
    def certified(self) -> bool:
        """Whether the lower confidence limit of the gain is positive."""
        return self.gain.low > 0

    @property
    def verdict(self) -> str:
        return "improvement certified" if self.certified else "not certified"

    def rows(self) -> dict[str, float]:
        """Flat floats for a metrics log, keys `certificate/*`."""
        row: dict[str, float] = {}
        for name, value in vars(self).items():
            if isinstance(value, Interval):
                row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
        row |= {name: float(getattr(self, name)) for name in ("largest_change", "certified", "responses", "groups")}
        return {f"certificate/{name}": value for name, value in row.items()}


def certify(
    log_probs: NDArray[Any],
    rollout_log_probs: NDArray[Any],
    rewards: NDArray[Any],
    response_mask: NDArray[Any],
    groups: NDArray[Any] | None = None,
    divergence: NDArray[Any] | None = None,
    reward_range: float = 1.0,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Certificate:
    """Estimate the certificate of one update.

    log_probs, rollout_log_probs: (N, T) of pi and mu at the sampled tokens; rewards: (N,); response_mask: (N, T), 1 at
    tokens of the response; groups: (N,) integer prompt ids, None when every response has its own prompt; divergence:
    (N, T) exact TV in [0, 1]. Intervals resample whole groups, since responses to one prompt are not independent; with
    one group only they resample its responses, and speak of that prompt.

    Raises ValueError for shapes that disagree, non-finite values at valid tokens, a reward range exceeded by the
    rewards, fewer than two responses, or a confidence outside (0, 1).
    """
    mask, rewards = np.asarray(response_mask, dtype=bool), np.asarray(rewards, dtype=np.float64)
    arrays = {"log_probs": log_probs, "rollout_log_probs": rollout_log_probs}
    if divergence is not None:
        arrays["divergence"] = divergence
    _check(mask, rewards, reward_range, confidence, arrays)
    given = {name: np.where(mask, array, 0.0).astype(np.float64) for name, array in arrays.items()}
    x = np.expm1(given["log_probs"] - given["rollout_log_probs"])
    size = given.get("divergence", abs(x) / 2)
    pairs = (abs(x) * suffix_sums(size.T).T).sum(axis=1)
    ids = np.arange(len(rewards)) if groups is None else np.unique(groups, return_inverse=True)[1]
    means = np.stack([x.sum(axis=1) * _advantages(rewards, ids), pairs, size.sum(axis=1)], axis=1)
    if ids.any():  # every prompt counts once
        means = np.stack([np.bincount(ids, column) / np.bincount(ids) for column in means.T], axis=1)
    count, xi = len(means), reward_range / 2
    samples = np.concatenate([means.mean(axis=0, keepdims=True), _resampled_means(means, resamples, seed)])
    surrogate, pair, total = samples[:, 0], 2 * xi * samples[:, 1], samples[:, 2]
    expected = np.array([expected_budget(u, xi) for u in total])
    # Expanded percentiles (Hesterberg 2015): as wide as Student's t would be, so that few groups do not shorten them.
    tail = float(ndtr(np.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - confidence) / 2)))

    def interval(values: Vector) -> Interval:
        return Interval(float(values[0]), *map(float, np.quantile(values[1:], [tail, 1 - tail])))

    estimates = (interval(surrogate), interval(pair), interval(expected))
    gain = interval(surrogate - np.minimum(pair, expected))
    limit = largest_change(float(total[0]), xi)
    return Certificate(*estimates, gain, interval(total), limit, confidence, len(rewards), count)


def _resampled_means(means: Vector, resamples: int, seed: int) -> Vector:
    """Means of `resamples` draws with replacement of the rows of means (G, columns): (resamples, columns)."""
    count, rng = len(means), np.random.default_rng(seed)
    block = max(1, 1_000_000 // count)  # resamples at a time: a few megabytes whatever the number of groups
    out = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        draws = rng.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(draws.ravel(), minlength=rows * count).reshape(rows, count)
        out.append(times @ means / count)
    return np.concatenate(out)


def _advantages(rewards: Vector, ids: NDArray[np.int64]) -> Vector:
    """R - b with b the mean reward of the OTHER responses of the group; b = 0 in groups of one."""
    count, total = np.bincount(ids)[ids], np.bincount(ids, weights=rewards)[ids]
    return rewards - np.where(count > 1, (total - rewards) / np.maximum(count - 1, 1), 0.0)


def _check(
    mask: NDArray[Any], rewards: Vector, reward_range: float, confidence: float, arrays: dict[str, NDArray[Any]]
) -> None:
    for name, array in arrays.items():
        if np.shape(array) != mask.shape:
            raise ValueError(f"{name} has shape {np.shape(array)}, response_mask {mask.shape}: they must agree")
        if not np.isfinite(np.asarray(array)[mask]).all():
            raise ValueError(f"{name} is not finite at some valid token; check the log-probs that produced it")
    if rewards.shape != mask.shape[:1]:
        raise ValueError(f"rewards has shape {rewards.shape}; {mask.shape[0]} responses need ({mask.shape[0]},)")
    if np.ptp(rewards) > reward_range:
        raise ValueError(f"rewards span {np.ptp(rewards):g}, above reward_range={reward_range:g}; raise reward_range")
    if len(rewards) < 2:
        raise ValueError(f"{len(rewards)} response: a bootstrap needs at least 2")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie in (0, 1)")
