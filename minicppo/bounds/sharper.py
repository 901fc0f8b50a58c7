"""Bounds that are sharper than the paper's and as short to prove. All of it is ours; proofs: theory/sharper.md.

Same names as `residual`: |Delta| <= the returned number, reward units. The reward matters only up to a
constant per prompt, so xi may always be HALF the range of R: 1/2 for rewards in {0, 1}.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicppo.bounds.residual import suffix_sums
from minicppo.bounds.tabular import Array, Pair, kernel, ratio


def worst_reward(pair: Pair, xi: float = 1.0) -> Any:
    """F1: the supremum of |Delta| over all rewards |R| <= xi is exactly xi ||K||_1 (see `tabular.kernel`)."""
    return xi * abs(kernel(pair)).sum()


def deviation_bound(pair: Pair, rewards: Array) -> float:
    """F1, second form: |Delta| <= sd * || K / P_mu ||_{L2(mu)}.

    sd^2 is the mean over prompts of Var_mu(R | prompt). Premise: pi << mu. rewards: (leaves,).
    """
    mu, k = pair.reach_mu[-1], kernel(pair)
    prompts = len(pair.prior)
    per_prompt = (mu * rewards).reshape(prompts, -1).sum(axis=1) / pair.prior
    centred = rewards - np.repeat(per_prompt, len(mu) // prompts)
    return float(np.sqrt((mu * centred**2).sum() * (mu * ratio(k, mu) ** 2).sum()))


def pair_certificate(pair: Pair, xi: float = 1.0) -> Any:
    """F2: |Delta| <= xi sum_{t<j} E_mu |x_t| |x_j|. Premise: pi << mu only. Never looser than Prop. 4.

    Every term is an average over mu of what a rollout shows, so it can be estimated; but it is heavy tailed.
    """
    size = abs(pair.path_excess)
    return xi * value_of(pair, size * suffix_sums(size))


def pair_certificate_divergence(pair: Pair, xi: float = 1.0) -> Any:
    """F2 with the exact divergence: the same number as 2 xi sum_t E_mu[|x_t| sum_{j>t} D_j(s_j)]."""
    return 2 * xi * value_of(pair, abs(pair.path_excess) * suffix_sums(pair.path_divergence))


def cap_theorem(caps: Array, xi: float = 1.0) -> Any:
    """F3: |Delta| <= 2 xi sum_t l_t (1 - prod_{j != t} (1 - l_j)) when D_t <= l_t at every state; caps (T,).

    The exact supremum over policies and rewards, approached by `families.rare_token`. Symmetric in the caps:
    under pathwise caps the worst case does not know about position.
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


def largest_path(pair: Pair) -> Any:
    """B = max of sum_t D_t over the paths mu can take, in [0, T]."""
    return pair.path_divergence.sum(axis=0)[pair.reach_mu[-1] > 0].max()


def expected_budget(total: float, xi: float = 1.0) -> float:
    """F5: |Delta| <= 2 xi (U + min(1, U)) with U = E_mu sum_t D_t. Premise: pi << mu only.

    It can never certify an improvement by itself, since L' <= 2 xi U; it limits how far J moves:
    `largest_change`.
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


def largest_chi_square(pair: Pair) -> float:
    """C = max of sum_t chi2_t over the paths mu can take; chi2_t(s_t) = sum_a mu_a x_a^2, no unit."""
    per_state = tuple((m * x**2).sum(axis=1) for m, x in zip(pair.mu, pair.excess, strict=True))
    return float(pair.along_paths(per_state).sum(axis=0)[pair.reach_mu[-1] > 0].max())


def value_of(pair: Pair, per_token: Array) -> Any:
    """E_mu of a sum over tokens: per_token (T, leaves)."""
    return pair.reach_mu[-1] @ per_token.sum(axis=0)
