"""Bounds that are sharper than the paper's and as short to prove. All of it is ours; proofs: theory/sharper.md.

Same names as `residual`: |Delta| <= the returned number, reward units. The reward matters only up to a constant per
prompt, so xi may always be HALF the range of R: 1/2 for rewards in {0, 1}. Bounds that read the policies themselves
(F1, F2) are in theory/pair_bounds.py.
"""

from typing import Any

import numpy as np

from minicppo.bounds.budget import Array


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


def path_budget_finite(total: float, horizon: int, xi: float = 1.0) -> float:
    """F4, elementary form: |Delta| <= 2 xi B^2 (1 - 1/T). Sharper than `path_budget` for B <= 1."""
    return 2 * xi * total**2 * (1 - 1 / horizon)


def expected_budget(total: float, xi: float = 1.0) -> float:
    """F5: |Delta| <= 2 xi (U + min(1, U)) with U = E_mu sum_t D_t. Premise: pi << mu only.

    It can never certify an improvement by itself, since L' <= 2 xi U; it limits how far J moves: `largest_change`.
    """
    return 2 * xi * (total + min(1, total))


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
