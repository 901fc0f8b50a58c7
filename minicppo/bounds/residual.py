"""The paper's statements about the surrogate's residual, as functions of thresholds and arrays.

Throughout: Delta = L' - (J(pi) - J(mu)); xi bounds |R|; u = (u_1 .. u_T), u_t = E_mu D_t; caps = (l_1 .. l_T),
D_t <= l_t at every state mu reaches. Bounds return a number in reward units that |Delta| does not exceed.
"""

from typing import Any

import numpy as np

from minicppo.bounds.budget import Array, Budget


def suffix_sums(caps: Array) -> Array:
    """sum_{j>t} l_j for t = 1 .. T, the last 0 (paper Lemma 3); caps (T,), or (T, paths) for sums along every path."""
    out = np.zeros_like(caps)
    # Shifted, not "inclusive sum less own", which cancels when a rare token's term is huge.
    out[:-1] = np.cumsum(caps[:0:-1], axis=0)[::-1]
    return out


def suffix_products(caps: Array) -> Array:
    """1 - prod_{j>t} (1 - l_j) for t = 1 .. T, shape (T,): the TV of the suffix is at most this (paper Lemma 3).

    Premise: D_j <= l_j <= 1 at every state after the prefix.
    """
    keep = np.cumprod((1 - caps)[::-1])[::-1]
    return 1 - np.append(keep[1:], keep[-1] ** 0)


def proposition4(u: Array, caps: Array, xi: float = 1.0) -> Any:
    """|Delta| <= 4 xi sum_t u_t sum_{j>t} l_j. Paper Prop. 4; needs pi << mu and caps. Shapes (T,)."""
    return 4 * xi * (u * suffix_sums(caps)).sum()


def product_form(u: Array, caps: Array, xi: float = 1.0) -> Any:
    """|Delta| <= 4 xi sum_t u_t (1 - prod_{j>t}(1 - l_j)). Paper B.9; never looser than Prop. 4."""
    return 4 * xi * (u * suffix_products(caps)).sum()


def theorem1(horizon: int, delta: float, delta_b: float, w_min: float = 1.0, xi: float = 1.0) -> float:
    """|Delta| <= 2 xi T (T - 1) lbar delta_b with lbar = min(1, delta / w_min). Paper Theorem 1.

    Premises: the theorem form of the budget (Eq. 5), its sums pathwise or in expectation over mu, with fixed weights in
    [w_min, 1] for which (T - t) / w_t does not increase (Prop. 5 gives this for the linear schedule).
    """
    return 2 * xi * horizon * (horizon - 1) * _token_cap(delta, w_min) * delta_b


def proposition8(horizon: int, delta: float, delta_b: float, w_min: float = 1.0, xi: float = 1.0) -> float:
    """|Delta| <= 2 xi (T - 1) lbar (T delta_b + 2 delta): Theorem 1 with slack, S_t <= delta_b W_t + delta.

    Paper Prop. 8; premises of Theorem 1. Eq. 8 needs the slack delta - delta_b w_min only: see `theorem1_eq8`.
    """
    return 2 * xi * (horizon - 1) * _token_cap(delta, w_min) * (horizon * delta_b + 2 * delta)


def theorem1_eq8(budget: Budget, xi: float = 1.0) -> float:
    """Theorem 1 for the constraints the algorithm tests (Eq. 8), its linear programme in closed form.

    |Delta| <= lam_1 delta / w_1 + delta_b sum_{t=2}^{T-1} lam_t w_{t-1} / w_t, lam_t = 4 xi (T - t) lbar (ours).
    Premises: those of Theorem 1, and Eq. 8 with its sums pathwise or in expectation; the programme's optimum if also
    delta_b w_t <= delta. At w = 1 this is 2 xi delta (T - 1) ((T - 2) delta_b + 2 delta), which is 4 xi delta (T - 1)
    delta_b below Prop. 8.
    """
    w, horizon = budget.weights, budget.horizon
    if horizon == 1:
        return 0.0
    lam = 4 * xi * np.arange(horizon - 1, 0, -1) * _token_cap(budget.delta, min(w))
    return float(lam[0] * budget.delta / w[0] + budget.delta_b * (lam[1:] * w[:-2] / w[1:-1]).sum())


def theorem1_monotone(budget: Budget, xi: float = 1.0) -> float:
    """Theorem 1 for any positive weights: r_t = lam_t / w_t gives way to max_{s>=t} r_s (ours).

    |Delta| <= delta_b sum_{t<T} w_t max_{s>=t} r_s under Eq. 5, lam_t = 4 xi sum_{j>t} min(1, delta / w_j).
    """
    w = budget.weights
    r = 4 * xi * suffix_sums(budget.token_caps) / w
    return float(budget.delta_b * (w * np.maximum.accumulate(r[::-1])[::-1])[:-1].sum())


def uniform_rule(horizon: int, delta: float, xi: float = 1.0) -> float:
    """|Delta| <= 2 xi T (T - 1) delta^2 when D_t <= delta everywhere (DPPO's rule). Paper Cor. 6.

    The exact supremum is `sharper.cap_theorem`, linear in T.
    """
    return 2 * xi * horizon * (horizon - 1) * delta**2


def improvement_ratio(delta: float, delta_b: float, w_min: float) -> float:
    """delta_b / (delta w_min): Theorem 1 over the uniform rule, a ratio of upper bounds. Paper Cor. 7."""
    return delta_b / (delta * w_min)


def _token_cap(delta: float, w_min: float) -> float:
    """lbar = min(1, delta / w_min), the largest D_t the token test allows at any position."""
    return 1.0 if delta >= w_min else delta / w_min
