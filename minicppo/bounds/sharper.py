"""Bounds that are sharper than the paper's and as short to prove. All of it is ours; proofs: theory/sharper.md.

Same names as `residual`: |Delta| <= the returned number, reward units. The reward matters only up to a constant per
prompt, so xi may always be HALF the range of R: 1/2 for rewards in {0, 1}. Every bound needs pi << mu: whatever pi may
emit, mu may sample; no function of numbers alone can check that. Bounds that read the policies themselves (F1, F2) are
in theory/pair_bounds.py.
"""

from typing import Any

import numpy as np

from minicppo.bounds.budget import Array
from minicppo.bounds.residual import suffix_products


def cap_theorem(caps: Array, xi: float = 1.0) -> Any:
    """F3: |Delta| <= 2 xi sum_t l_t (1 - prod_{j != t} (1 - l_j)) when D_t <= l_t at every state; caps (T,).

    The exact supremum over policies and rewards, approached by `theory.families.rare_token`; blind to position.
    """
    before = np.concatenate([[1], np.cumprod(1 - caps)[:-1]])
    after = np.concatenate([np.cumprod((1 - caps)[::-1])[::-1][1:], [1]])
    return 2 * xi * (caps * (1 - before * after)).sum()


def uniform_supremum(horizon: int, delta: float, xi: float = 1.0) -> float:
    """F3 for l_t = delta: 2 xi T delta (1 - (1 - delta)^(T - 1)), never above 2 xi T delta: linear in T."""
    return 2 * xi * horizon * delta * (1 - (1 - delta) ** (horizon - 1))


def path_budget(total: float, xi: float = 1.0) -> float:
    """F4: |Delta| <= 2 xi B min(1, B) when sum_t D_t <= B along every path mu can take; nothing else."""
    return 2 * xi * total * min(1, total)


def path_budget_exact(total: float, xi: float = 1.0) -> float:
    """F4 without caps, exact for B <= 1: |Delta| <= 4 xi (B - 1 + e^-B); beyond, 2 xi B. Premise of `path_budget`."""
    if total < 1e-4:  # its series, which does not cancel
        return 2 * xi * total**2 * (1 - total / 3)
    return 4 * xi * (total + float(np.expm1(-total))) if total <= 1 else 2 * xi * total


def path_budget_capped(total: float, cap: float, xi: float = 1.0) -> float:
    """F4 with a cap: |Delta| <= 2 xi B (1 - (1 - l)^(B / l)) when also D_t <= l at every state; 0 < l <= 1.

    As l -> 0 it falls to 2 xi B (1 - e^-B), which many small tokens attain. Never above `path_budget_exact`.
    """
    if cap == 1:
        return path_budget_exact(total, xi)
    spread = -2 * xi * total * float(np.expm1(total / cap * np.log1p(-cap)))
    return min(path_budget_exact(total, xi), spread)


def path_budget_finite(total: float, horizon: int, xi: float = 1.0) -> float:
    """F4, elementary form: |Delta| <= 2 xi B^2 (1 - 1/T). Sharper than `path_budget` for B <= 1."""
    return 2 * xi * total**2 * (1 - 1 / horizon)


def expected_budget(total: float, xi: float = 1.0) -> float:
    """F5: |Delta| <= 2 xi (U + min(1, U)) with U = E_mu sum_t D_t. Premise: pi << mu only.

    `mean_budget` is sharper by up to 2. Neither can certify an improvement by itself, since L' <= 2 xi U; what U limits
    is how far J moves: `largest_change`.
    """
    return 2 * xi * (total + min(1, total))


def mean_budget(total: float, xi: float = 1.0) -> float:
    """T2 without caps: |Delta| <= 2 xi U with U = E_mu sum_t D_t. Premise: pi << mu only. Attained at T = 2."""
    return 2 * xi * total


def mean_caps(u: Array, caps: Array, xi: float = 1.0) -> Any:
    """T2: |Delta| <= 2 xi sum_j (tau_j u_j + (1 - tau_j) min(u_j, l_j r_j)); u, caps (T,).

    tau_j = 1 - prod_{i>j} (1 - l_i), r_j = min(1 - prod_{i<j} (1 - l_i), sum_{i<j} u_i). Premises: pi << mu, D_t <= l_t
    at every state, u_t = E_mu D_t. Never above Prop. 4, B.9, F3 or `mean_budget`.
    """
    tau, reached = suffix_products(caps), suffix_products(caps[::-1])[::-1]
    before = np.minimum(reached, np.cumsum(u) - u)
    return 2 * xi * (tau * u + (1 - tau) * np.minimum(u, caps * before)).sum()


def largest_change(total: float, xi: float = 1.0) -> float:
    """|J(pi) - J(mu)| <= 2 xi min(1, U), U = E_mu sum_t D_t; the half of F5 that needs no surrogate."""
    return 2 * xi * min(1, total)


def chi_square_budget(total: float, xi: float = 1.0) -> float:
    """F7: |Delta| <= xi sqrt(e^C - 1 - C) when sum_t chi2_t(s_t) <= C along every path.

    chi2_t = E_mu[x_t^2 | s_t]. Premise: pi << mu. Free of the horizon; xi may be the standard deviation of R given the
    prompt (root mean square over prompts). inf where e^C overflows.
    """
    if total < 1e-4:  # e^C - 1 - C by its series, which does not cancel
        return xi * total * float(np.sqrt(1 / 2 + total / 6 + total**2 / 24))
    with np.errstate(over="ignore"):
        return float(xi * np.sqrt(np.expm1(np.float64(total)) - total))


def ratio_band(total: float, band: float, xi: float = 1.0) -> float:
    """T5: F7 with C = 2 c B, when |rho_t - 1| <= c and sum_t D_t <= B along every path: v_t <= 2 c D_t."""
    return chi_square_budget(2 * band * total, xi)
