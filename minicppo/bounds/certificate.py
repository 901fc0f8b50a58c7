"""A live certificate of improvement, estimated from rollouts alone (ours).

    certificate = certify(log_probs, rollout_log_probs, rewards, response_mask, groups=group_ids)
    log(certificate.rows())  # {"certificate/surrogate": .., "certificate/certified": 0.0 or 1.0, ..}

Call it after an optimiser step, with log_probs of the NEW policy and with every row of the rollout: also the groups
whose rewards do not vary, which the loss may drop, since the residual counts them. Means over responses estimate, with
x_t = rho_t - 1 and m = rho_1 .. rho_T:

    surrogate L'    E_mu[(R - b) sum_t x_t], b the mean of the group's others (the plain mean would shrink L' by
                    1 - 1/G), or 0 without groups
    pair     F2     2 xi E_mu sum_t |x_t| sum_{j>t} D_j; without a divergence xi E_mu sum_{t<j} |x_t| |x_j|
    expected F5     2 xi (U + min(1, U)), U = E_mu sum_t D_t; without a divergence E_mu sum_t |x_t| / 2
    residual T1     xi E_mu |m - 1 - sum_t x_t|, the worst residual itself: never above F2 or F5

and four lower limits of the gain J(pi) - J(mu), each by name with its premise in `KINDS`:

    pair            L' - min(F2, F5), bootstrap         residual      L' - T1, Student's t
    importance      E_mu[(m - 1) (R - b)], Student's t  betting       E_mu[(min(m, cap) - 1) (R - lowest R)], betting

"Certified" says that the limit of the chosen kind is positive, and that the batch does not contradict its premise:
E_mu m = 1 and E_mu sum_t x_t = 0 fail where pi has moved to branches that no response shows, and then L', F2 and T1
know nothing of the harm done there. Betting needs no such premise: what pi earns on unseen branches only adds.

Premises: pi << mu; log-probs of the untruncated sampling distribution on both sides; |R - c| <= xi = reward_range / 2;
a divergence, if given, is the exact TV of s_t (Binary and Top-K scores lie below it and void F2 and F5). Groups are
independent draws of a prompt. F5 alone never certifies (L' <= 2 xi U), it limits how far J can have moved.

Judge on responses that mu samples afresh: on the batch an update maximised L' is optimistic, and "certified" describes
that batch only. No test shows a branch that mu visits once in a million responses and that pi hardly moved to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import scipy  # which imports its parts where they are first used
from numpy.typing import NDArray

from minicppo.bounds.limits import betting_limit, mean_score, student_limits, unseen_mass
from minicppo.bounds.residual import suffix_sums
from minicppo.bounds.sharper import expected_budget, largest_change

Vector = NDArray[np.float64]
Kind = Literal["pair", "residual", "importance", "betting"]
KINDS: dict[Kind, str] = {
    "pair": "pi << mu; |x| not heavy tailed; enough groups for a bootstrap",
    "residual": "pi << mu; m not heavy tailed; enough groups for Student's t",
    "importance": "pi << mu; m not heavy tailed; enough groups for Student's t",
    "betting": "independent groups, rewards within their range: nothing of tails, support or the number of groups",
}
REFUSED = -3.0  # standard errors: about one batch in 700 is refused without cause
LARGEST = 300.0  # of log m: its square is still a number


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
    residual: Interval
    residual_gain: Interval
    importance_gain: Interval
    betting_low: float
    ratio_score: float
    unseen: float
    largest_change: float
    confidence: float
    responses: int
    groups: int
    kind: Kind

    @property
    def refused(self) -> bool:
        """Whether the batch misses branches that pi moved to, so that only the kind "betting" means anything."""
        return self.ratio_score < REFUSED or self.unseen > abs(self.surrogate.estimate)

    @property
    def lower_limits(self) -> dict[Kind, float]:
        """The lower confidence limit of the gain, by kind."""
        gains = {"pair": self.gain.low, "residual": self.residual_gain.low, "importance": self.importance_gain.low}
        return {kind: gains.get(kind, self.betting_low) for kind in KINDS}

    def certifies(self, kind: Kind) -> bool:
        """Whether that kind's lower limit is positive and the batch does not contradict its premise."""
        return self.lower_limits[kind] > 0 and (kind == "betting" or not self.refused)

    @property
    def certified(self) -> bool:
        """Whether the kind that was asked for certifies an improvement."""
        return self.certifies(self.kind)

    @property
    def verdict(self) -> str:
        if self.refused and self.kind != "betting":
            return f"refused: mean ratios are too low (score {self.ratio_score:.1f}): pi moved where no response is"
        return "improvement certified" if self.certified else "not certified"

    def rows(self) -> dict[str, float]:
        """Flat floats for a metrics log, keys `certificate/*`."""
        row: dict[str, float] = {}
        for name, value in vars(self).items():
            if isinstance(value, Interval):
                row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
        numbers = "largest_change certified responses groups betting_low ratio_score unseen refused"
        row |= {name: max(float(getattr(self, name)), -1e9) for name in numbers.split()}  # a score may be -inf
        row |= {f"certified_{kind}": float(self.certifies(kind)) for kind in KINDS}
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
    kind: Kind = "pair",
    cap: float = 4.0,
) -> Certificate:
    """Estimate the certificate of one update.

    log_probs, rollout_log_probs: (N, T) of pi and mu at the sampled tokens; rewards: (N,); response_mask: (N, T), 1 at
    tokens of the response; groups: (N,) integer prompt ids, None when every response has its own prompt; divergence:
    (N, T) exact TV in [0, 1]. Intervals resample whole groups, since responses to one prompt are not independent; with
    one group only they resample its responses, and speak of that prompt. kind: what "certified" goes by, of `KINDS`.
    cap: of m in the kind "betting".

    Raises ValueError for shapes that disagree, non-finite values at valid tokens, a reward range exceeded by the
    rewards, fewer than two responses, or a confidence outside (0, 1).
    """
    mask, rewards = np.asarray(response_mask, dtype=bool), np.asarray(rewards, dtype=np.float64)
    arrays = {"log_probs": log_probs, "rollout_log_probs": rollout_log_probs}
    if divergence is not None:
        arrays["divergence"] = divergence
    _check(mask, rewards, reward_range, confidence, arrays)
    if kind not in get_args(Kind) or cap < 1:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}, and cap={cap} at least 1")
    given = {name: np.where(mask, array, 0.0).astype(np.float64) for name, array in arrays.items()}
    x = np.expm1(given["log_probs"] - given["rollout_log_probs"])
    size = given.get("divergence", abs(x) / 2)
    pairs = (abs(x) * suffix_sums(size.T).T).sum(axis=1)
    ids = np.arange(len(rewards)) if groups is None else np.unique(groups, return_inverse=True)[1]
    advantages, xi = _advantages(rewards, ids), reward_range / 2
    total = x.sum(axis=1)
    change = np.expm1(np.minimum((given["log_probs"] - given["rollout_log_probs"]).sum(axis=1), LARGEST))  # m - 1
    columns = [total * advantages, pairs, size.sum(axis=1)]
    columns += gain_columns(total, change, rewards, advantages, reward_range, cap)
    means = np.stack(columns, axis=1)
    if ids.any():  # every prompt counts once
        sizes = np.bincount(ids)
        means = np.stack([np.bincount(ids, column) / sizes for column in means.T], axis=1)
        x = np.add.reduceat(x[np.argsort(ids, kind="stable")], np.cumsum(sizes) - sizes) / sizes[:, None]
    means, exact = means[:, :3].copy(), means[:, 3:].T.copy()
    count = len(means)
    samples = np.concatenate([means.mean(axis=0, keepdims=True), _resampled_means(means, resamples, seed)])
    surrogate, pair, total = samples[:, 0], 2 * xi * samples[:, 1], samples[:, 2]
    expected = np.array([expected_budget(u, xi) for u in total])
    # Expanded percentiles (Hesterberg 2015): as wide as Student's t would be, so that few groups do not shorten them.
    t = scipy.special.stdtrit(count - 1, (1 - confidence) / 2)
    tail = float(scipy.special.ndtr(np.sqrt(count / (count - 1)) * t))

    def interval(values: Vector) -> Interval:
        return Interval(float(values[0]), *map(float, np.quantile(values[1:], [tail, 1 - tail])))

    def by_student(values: Vector) -> Interval:
        return Interval(float(values.mean()), *map(float, student_limits(values, confidence)))

    return Certificate(
        surrogate=interval(surrogate),
        pair=interval(pair),
        expected=interval(expected),
        gain=interval(surrogate - np.minimum(pair, expected)),
        divergence=interval(total),
        residual=by_student(exact[0]),
        residual_gain=by_student(exact[1]),
        importance_gain=by_student(exact[2]),
        betting_low=reward_range * (float(betting_limit(exact[3], confidence)) - 1),
        ratio_score=float(mean_score(exact[4:]).min()),
        unseen=reward_range * unseen_mass(x),
        largest_change=largest_change(float(total[0]), xi),
        confidence=confidence,
        responses=len(rewards),
        groups=count,
        kind=kind,
    )


def gain_columns(
    total: Vector, change: Vector, rewards: Vector, advantages: Vector, reward_range: float = 1.0, cap: float = 4.0
) -> list[Vector]:
    """Of each response, the numbers whose means the kinds beside "pair" judge; all arguments and results (N,).

    total: sum_t x_t; change: m - 1. Returns the worst residual's xi |m - 1 - sum x|; L' less it; (m - 1) (R - b); for
    betting 1 + (min(m, cap) - 1) (R - lowest R) / reward_range, not negative; and what has mean 0: sum x, m - 1.
    """
    worst = reward_range / 2 * abs(change - total)
    above = rewards - (rewards.max(axis=-1, keepdims=True) - reward_range)  # the lowest reward there could be
    bets = 1 + np.minimum(change, cap - 1) * above / reward_range
    return [worst, total * advantages - worst, change * advantages, bets, total, change]


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
