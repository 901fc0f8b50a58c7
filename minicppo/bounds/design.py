"""Thresholds from bounds and bounds from thresholds (ours), for weights falling linearly from 1 to w_min.

Everything follows from three dimensionless groups: the burst k = delta / delta_b (how many tokens' allowance one token
may spend at once), w_min, and the divergence a response may collect. The constraint set scales with (delta, delta_b),
so one evaluation at delta_b = 1 fixes delta_b for any target. All horizons count tokens; residuals are in reward units.
Every bound needs pi << mu.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from minicppo.bounds.budget import Budget, fill_from_end
from minicppo.bounds.mean_program import LONGEST_PROGRAM, mean_budget_eq8
from minicppo.bounds.residual import theorem1_eq8, uniform_rule
from minicppo.bounds.sharper import chi_square_budget, path_budget, ratio_band

Method = Literal["uniform", "theorem1", "mean", "path", "band", "chi2"]

BAND = 0.2  # the ratio band of "band"
LONGEST = 2**20  # tokens, each of which is looked at
HORIZONS = (16, 64, 256, 1024, 4096, 8192, 16384, 65536)
PREMISES: dict[Method, str] = {
    "uniform": "D_t <= delta at every prefix (no prefix budget)",
    "theorem1": "the token test everywhere, the prefix sums of Eq. 8 in mean over mu; Theorem 1 with the initial slack",
    "mean": "the same premise, read by T2",
    "path": "Eq. 8 at every prefix mu can reach, the last token included (F4)",
    "band": f"the same, and |rho - 1| <= {BAND} at every token (T5)",
    "chi2": "Eq. 8 with chi-square in place of TV, at every prefix mu can reach (F7)",
}


@dataclass(frozen=True)
class Design:
    """Thresholds that certify a residual.

    delta, delta_b: in TV, or in chi-square units for the method "chi2". bound: the certified residual, reward units.
    tv: the TV a token at the average allowance may have, delta_b itself or, of chi-square, sqrt(delta_b / kappa) / 2.
    """

    horizon: int
    method: Method
    delta: float
    delta_b: float
    w_min: float
    bound: float
    tv: float
    premises: str


def design_thresholds(
    horizon: int,
    residual: float,
    reward_range: float = 1.0,
    burst: float = 7.5,
    w_min: float = 1.0,
    method: Method = "path",
    kappa: float = 1.0,
) -> Design:
    """The largest (delta, delta_b) with delta = burst * delta_b whose residual bound is `residual` (ours).

    horizon: 2 <= T <= 2^20 tokens. residual: target for |Delta|, reward units. reward_range: max R - min R, 2 xi.
    kappa: chi-square over 4 TV^2, which `tv` of "chi2" assumes (1 if |rho - 1| is the same everywhere).
    Raises ValueError for values outside their range.

    >>> design_thresholds(16, 0.5).delta_b.__format__(".3f")
    '0.031'
    """
    _check(horizon, method, w_min=w_min, residual=residual, reward_range=reward_range, burst=burst, kappa=kappa)
    xi = reward_range / 2
    if method == "uniform":
        delta = (residual / uniform_rule(horizon, 1.0, xi)) ** 0.5
        return Design(horizon, method, delta, delta, 1.0, residual, delta, PREMISES[method])
    if method == "theorem1":
        # The bound over delta_b^2 is constant until lbar = delta / w_min is clipped at 1, and an upper bound beyond.
        small = 1e-6 * w_min / burst
        unit = theorem1_eq8(Budget.linear(horizon, small * burst, small, w_min), xi) / small**2
        delta_b = (residual / unit) ** 0.5
    elif method == "mean":
        delta_b = _invert_mean(horizon, residual, burst, w_min, xi)
    else:
        total = path_for(residual, xi) if method == "path" else chi_square_for(residual, xi)
        if method == "band":
            total = max(path_for(residual, xi), total / (2 * BAND))
        delta_b = total / _path_total(horizon, burst, 1.0, w_min)
    tv = float(np.sqrt(delta_b / kappa)) / 2 if method == "chi2" else delta_b
    return Design(horizon, method, burst * delta_b, delta_b, w_min, residual, tv, PREMISES[method])


def certified_residual(
    horizon: int, delta: float, delta_b: float, w_min: float = 1.0, reward_range: float = 1.0, method: Method = "path"
) -> float:
    """The residual that given thresholds certify, reward units: the inverse of `design_thresholds` (ours).

    "uniform" reads delta alone. Above `reward_range` the bound is vacuous: no policy's J differs by more.
    """
    _check(horizon, method, w_min=w_min, delta=delta, delta_b=delta_b, reward_range=reward_range)
    xi = reward_range / 2
    if method == "uniform":
        return uniform_rule(horizon, delta, xi)
    budget = Budget.linear(horizon, delta, delta_b, w_min)
    if method == "theorem1":
        return theorem1_eq8(budget, xi)
    if method == "mean":
        return mean_budget_eq8(budget, xi)
    if method == "path":
        return path_budget(budget.path_divergence, xi)
    if method == "band":
        return min(ratio_band(budget.path_divergence, BAND, xi), path_budget(budget.path_divergence, xi))
    return chi_square_budget(_path_total(horizon, delta, delta_b, w_min), xi)


def largest_horizon(
    delta: float,
    delta_b: float,
    w_min: float = 1.0,
    method: Method = "path",
    limit: int = LONGEST,
    share: float = 1.0,
) -> int:
    """The largest T <= limit whose certified residual is still below a share of the range of the reward, 2 xi (ours).

    Premise: the residual grows with T, true of all these bounds. Doubling, then bisection.
    """

    def useful(horizon: int) -> bool:
        if method == "mean" and Budget.linear(horizon, delta, delta_b, w_min).path_divergence < share:
            return True  # T2 without caps: no programme to solve
        return certified_residual(horizon, delta, delta_b, w_min, 1.0, method) < share

    low, high = 1, 2
    while useful(high):
        if high >= limit:
            return limit
        low, high = high, min(2 * high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if useful(middle) else (low, middle)
    return low


def design_table(
    residual: float,
    reward_range: float = 1.0,
    burst: float = 7.5,
    w_min: float = 1.0,
    horizons: Iterable[int] = HORIZONS,
    kappa: float = 1.0,
) -> list[dict[Method, Design]]:
    """One row a horizon, one design a method."""
    return [
        {method: design_thresholds(horizon, residual, reward_range, burst, w_min, method, kappa) for method in PREMISES}
        for horizon in horizons
    ]


def path_for(residual: float, xi: float) -> float:
    """The path budget B with 2 xi B min(1, B) = residual."""
    share = residual / (2 * xi)
    return share**0.5 if share <= 1 else share


def chi_square_for(residual: float, xi: float) -> float:
    """The chi-square budget C with xi sqrt(e^C - 1 - C) = residual."""
    top = 2 * float(np.log1p(residual / xi)) + 2
    return float(scipy.optimize.brentq(lambda c: chi_square_budget(c, xi) - residual, 0, top))


def _invert_mean(horizon: int, residual: float, burst: float, w_min: float, xi: float) -> float:
    """delta_b at which T2 allows `residual`: no less than without its caps, where it is 2 xi times the largest U."""
    low = high = residual / (2 * xi) / _path_total(horizon, burst, 1.0, w_min)
    if horizon > LONGEST_PROGRAM:
        return low

    def excess(delta_b: float) -> float:
        return mean_budget_eq8(Budget.linear(horizon, burst * delta_b, delta_b, w_min), xi) - residual

    while excess(high) < 0 and high < 1:
        low, high = high, 1.5 * high
    if not excess(low) < 0 < excess(high):
        return low
    return (1 - 1e-6) * float(scipy.optimize.brentq(excess, low, high, rtol=1e-7))


def _path_total(horizon: int, delta: float, delta_b: float, w_min: float) -> float:
    """The largest path sum without the ceiling D_t <= 1, so that it scales with (delta, delta_b)."""
    budget = Budget.linear(horizon, delta, delta_b, w_min)
    return fill_from_end(budget.weights, np.full(horizon, delta), budget.limits)


def _check(horizon: int, method: str, w_min: float, **positive: float) -> None:
    if method not in PREMISES:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(PREMISES)}")
    if horizon < 2:
        raise ValueError(f"horizon={horizon}: thresholds need at least 2 tokens (with 1 the residual is 0)")
    if horizon > LONGEST:
        raise ValueError(f"horizon={horizon} is above {LONGEST}; thresholds scale as 1/T: divide those of {LONGEST}")
    if not 0 < w_min <= 1:
        raise ValueError(f"w_min={w_min} must lie in (0, 1]: the path budget divides by it")
    for name, number in positive.items():
        if not 0 < number < np.inf:
            raise ValueError(f"{name}={number} must be positive and finite")
