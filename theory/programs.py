"""Two optimisation problems: the exact worst case over policies (F6) and the linear programme of Theorem 1.

The first is ours. The second relaxes the policy to its mean drifts: maximise sum_t c_t z_t subject to
0 <= z_t <= cap_t and z_1 + .. + z_t <= limit_t for every t. Its constraints form a chain, so greed is optimal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from minicppo.bounds.budget import Budget

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
