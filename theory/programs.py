"""Two optimisation problems: the exact worst case over policies (F6) and the linear programme of Theorem 1.

The first is ours. The second relaxes the policy to its mean drifts: maximise sum_t c_t z_t subject to
0 <= z_t <= cap_t and z_1 + .. + z_t <= limit_t for every t. Its constraints form a chain, so greed is optimal.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from minicppo.bounds.budget import Budget
from theory.tabular import Pair

Vector = NDArray[Any]


def exact_supremum(budget: Budget, xi: float = 1.0, cells: int = 150) -> float:
    """F6: the supremum of |Delta| over all rewards |R| <= xi and all policies inside the budget.

    Backward recursion over S, the weighted divergence spent so far; with d = D_t and S' = S + w_t d,

        TV_t(S) = max_d  d + (1 - d) TV_{t+1}(S')                              suffix total variation
        P_t(S)  = max_d  d + P_{t+1}(S')                                       suffix divergence
        G_t(S)  = max_d  2 d (TV_{t+1}(S') + P_{t+1}(S')) + (1 - d) G_{t+1}(S')    suffix residual

    give xi G_1(0). Premise: pathwise budget. Spending is kept on a grid of delta / cells, so the value approaches
    the supremum from below; it is exact where the optimal spending lies on the grid. O(T cells^2 S_T / delta).

    Raises ValueError when delta is 0, when a weight is 0 (no grid), or when cells < 1.
    """
    if budget.delta <= 0 or cells < 1 or min(budget.weights) <= 0:
        raise ValueError(f"a grid needs delta={budget.delta} > 0, cells={cells} >= 1 and positive weights")
    step = budget.delta / cells
    caps = _cells(budget.caps, step)
    limits = _cells(np.minimum.accumulate(budget.limits[::-1])[::-1], step)
    states = int(limits[-1]) + 1
    tv, spent, gap = np.zeros(states), np.zeros(states), np.zeros(states)
    for t in range(budget.horizon - 1, -1, -1):
        best = [np.full(states, -np.inf) for _ in range(3)]
        for k in range(int(min(caps[t], limits[t])) + 1):
            d = k * step / budget.weights[t]
            live = int(limits[t]) - k + 1  # states S with S + k inside the limit
            tv_next, spent_next, gap_next = (v[k : k + live] for v in (tv, spent, gap))
            candidates = (
                d + (1 - d) * tv_next,
                d + spent_next,
                2 * d * (tv_next + spent_next) + (1 - d) * gap_next,
            )
            for value, candidate in zip(best, candidates, strict=True):
                np.maximum(value[:live], candidate, out=value[:live])
        tv, spent, gap = best
    return xi * float(gap[0])


def worst_pair(budget: Budget, cells: int = 15, epsilon: float = 2.0**-30) -> Pair:
    """Three tokens that attain F6 as epsilon -> 0 (ours): F6's proof as a pair of policies, weights 1.

    In a state that still matters for G the tokens are "up" (mu epsilon, pi epsilon + d), "down" (mu d, pi 0) and "as
    before"; after "up" pi's change of value is played (TV), after "down" the surrogate (P), after the third G again.
    For TV and P "down" is the likely token itself. Premise: weights 1, so that the grid is that of `exact_supremum`.
    """
    step = budget.delta / cells
    limits = _cells(np.minimum.accumulate(budget.limits[::-1])[::-1], step)

    @cache
    def best(mode: str, t: int, spent: int) -> tuple[float, int]:
        """The recursion's value, and the number of steps d that attains it."""
        if t == budget.horizon:
            return 0.0, 0
        options = []
        for k in range(min(cells, int(limits[t]) - spent) + 1):
            d, (tv, p) = k * step, (best(m, t + 1, spent + k)[0] for m in ("tv", "p"))
            found = {"tv": d + (1 - d) * tv, "p": d + p}
            options.append(found[mode] if mode != "g" else 2 * d * (tv + p) + (1 - d) * best("g", t + 1, spent + k)[0])
        return max(options), int(np.argmax(options))

    mu: list[Vector] = []
    pi: list[Vector] = []
    states = [("g", 0)]
    for t in range(budget.horizon):
        rows, following = [], []
        for mode, spent in states:
            k = best(mode, t, spent)[1]
            d = k * step
            down = d if mode == "g" else 0.0
            rows.append(([epsilon, down, 1 - epsilon - down], [epsilon + d, 0.0, 1 - epsilon - d]))
            following += [("tv" if mode == "g" else mode, spent + k), ("p" if mode == "g" else mode, spent + k)]
            following.append((mode, spent + k))
        states = following
        for policy, level in zip((mu, pi), zip(*rows, strict=True), strict=True):
            policy.append(np.array(level))
    return Pair(tuple(mu), tuple(pi), np.ones(1))


def greedy(coefficients: Vector, caps: Vector, limits: Vector) -> tuple[float, Vector]:
    """Optimal value and z (T,) of the linear programme: serve positions by falling coefficient (ours).

    Each takes the most its cap and every later prefix limit allow; positions with coefficient <= 0 take
    nothing. O(T^2).
    """
    z, room = np.zeros(len(caps)), np.asarray(limits, dtype=float).copy()
    for t in np.argsort(-coefficients, kind="stable"):
        if coefficients[t] <= 0:
            break
        z[t] = max(0.0, min(caps[t], room[t:].min()))
        room[t:] -= z[t]
    return float(coefficients @ z), z


def linear_program(coefficients: Vector, caps: Vector, limits: Vector) -> float:
    """The same optimum by scipy's HiGHS, to check `greedy`. Raises RuntimeError if the solver fails."""
    horizon = len(caps)
    result = linprog(
        -coefficients, A_ub=np.tri(horizon), b_ub=limits, bounds=[(0, cap) for cap in caps], method="highs"
    )
    if not result.success:
        raise RuntimeError(f"linear programme of {horizon} variables failed: {result.message}")
    return -float(result.fun)


def theorem1_program(budget: Budget, suffix: Vector, xi: float = 1.0) -> tuple[Vector, Vector, Vector]:
    """The linear programme of Theorem 1, c_t = 4 xi suffix_t / w_t for z_t = w_t u_t: (c, caps, limits).

    suffix (T,): the suffix bound after each position, `residual.suffix_sums` or `suffix_products` of the token caps.
    """
    return 4 * xi * suffix / budget.weights, budget.caps, budget.limits


def _cells(values: Vector, step: float) -> NDArray[np.int64]:
    """Whole grid steps in each value, forgiving rounding."""
    return np.floor(values / step + 1e-9).astype(np.int64)
