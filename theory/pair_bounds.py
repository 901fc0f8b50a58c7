"""Bounds and suprema read off a pair of policies itself: by enumeration, with nothing assumed of it.

Same names as `minicppo.bounds.residual`: |Delta| <= the returned number, reward units. The reward matters only up to a
constant per prompt, so xi may always be HALF the range of R: 1/2 for rewards in {0, 1}.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicppo.bounds.residual import suffix_products, suffix_sums
from theory.tabular import Array, Levels, Pair, kernel, kl, ratio, sequence_kl, value


def identity_residual(pair: Pair, rewards: Array) -> Any:
    """Delta = E_mu[R sum_t x_t (1 - rho_{t+1} .. rho_T)]. Paper Lemma 2; reward units.

    Premise: pi << mu. Without it a rollout never sees the missing tokens and the identity fails. rewards: (leaves,).
    """
    rho = 1 + pair.path_excess
    suffix = np.ones_like(rho)
    for t in range(pair.horizon - 2, -1, -1):
        suffix[t] = suffix[t + 1] * rho[t + 1]
    return value(pair.reach_mu[-1] * (pair.path_excess * (1 - suffix)).sum(axis=0), rewards)


def worst_reward(pair: Pair, xi: float = 1.0) -> Any:
    """F1: the supremum of |Delta| over all rewards |R| <= xi is exactly xi ||K||_1 (see `tabular.kernel`)."""
    return xi * abs(kernel(pair)).sum()


def deviation_bound(pair: Pair, rewards: Array) -> float:
    """F1, second form: |Delta| <= sd * || K / P_mu ||_{L2(mu)}.

    sd^2 is the mean over prompts of Var_mu(R | prompt). Premise: pi << mu. rewards: (leaves,).
    """
    require_support(pair)
    mu, k = pair.reach_mu[-1], kernel(pair)
    prompts = len(pair.prior)
    per_prompt = (mu * rewards).reshape(prompts, -1).sum(axis=1) / pair.prior
    centred = rewards - np.repeat(per_prompt, len(mu) // prompts)
    return float(np.sqrt((mu * centred**2).sum() * (mu * ratio(k, mu) ** 2).sum()))


def pair_certificate(pair: Pair, xi: float = 1.0) -> Any:
    """F2: |Delta| <= xi sum_{t<j} E_mu |x_t| |x_j|. Premise: pi << mu only. Never looser than Prop. 4.

    Every term is an average over mu of what a rollout shows, so it can be estimated; but it is heavy tailed.
    """
    require_support(pair)
    size = abs(pair.path_excess)
    return xi * value_of(pair, size * suffix_sums(size))


def pair_certificate_divergence(pair: Pair, xi: float = 1.0) -> Any:
    """F2 with the exact divergence: the same number as 2 xi sum_t E_mu[|x_t| sum_{j>t} D_j(s_j)]."""
    return 2 * xi * value_of(pair, abs(pair.path_excess) * suffix_sums(pair.path_divergence))


def largest_path(pair: Pair) -> Any:
    """B = max of sum_t D_t over the paths mu can take, in [0, T]."""
    return pair.path_divergence.sum(axis=0)[pair.reach_mu[-1] > 0].max()


def largest_chi_square(pair: Pair) -> float:
    """C = max of sum_t chi2_t over the paths mu can take; chi2_t(s_t) = sum_a mu_a x_a^2, no unit."""
    require_support(pair)
    return float(pair.along_paths(chi_squares(pair)).sum(axis=0)[pair.reach_mu[-1] > 0].max())


def chi_squares(pair: Pair) -> Levels:
    """v_t(s_t) = E_mu[x_t^2 | s_t] at every state: T arrays (P * V**t,)."""
    return tuple((m * x**2).sum(axis=1) for m, x in zip(pair.mu, pair.excess, strict=True))


def trm_bounds(pair: Pair, xi: float = 1.0) -> dict[str, float]:
    """The residual bounds of trust region masking (arXiv 2512.23075), re-derived for |R| <= xi.

    With k = max_t,s KL(mu || pi) in nats, eps = max_t,s D_t and K = KL(P_mu || P_pi) over responses:
    classical T (T - 1) k; pinsker (4/3) T^1.5 k; mixed 2 T sqrt(k K); coupling 4 eps sum_t min(1, (t - 1)
    eps); adaptive 4 sum_t u_t min(1, (T - t) eps, sqrt((T - t) k / 2)). Premise: pi << mu.
    """
    require_support(pair)
    horizon, eps = pair.horizon, float(pair.caps.max())
    k = max(float(kl(m, p)[q > 0].max()) for q, m, p in zip(pair.reach_mu, pair.mu, pair.pi, strict=False))
    before = np.arange(horizon)
    after = before[::-1]
    pinsker = np.sqrt([count * k / 2 if count else 0.0 for count in after])  # k may be inf, 0 * inf is not 0
    suffix = np.minimum(1, np.minimum(after * eps, pinsker))
    return {
        "classical": xi * horizon * (horizon - 1) * k if horizon > 1 else 0.0,
        "pinsker": xi * 4 / 3 * horizon**1.5 * k,
        "mixed": xi * 2 * horizon * float(np.sqrt(k * sequence_kl(pair))),
        "coupling": xi * 4 * eps * float(np.minimum(1, before * eps).sum()),
        "adaptive": xi * 4 * float((pair.drift * suffix).sum()),
    }


def value_of(pair: Pair, per_token: Array) -> Any:
    """E_mu of a sum over tokens: per_token (T, leaves)."""
    return pair.reach_mu[-1] @ per_token.sum(axis=0)


def require_support(pair: Pair) -> None:
    """Raises ValueError unless pi << mu: without it no mean over rollouts knows what pi does, and every bound fails."""
    if not pair.supported:
        raise ValueError("pi emits a token that mu never samples: the bounds need pi << mu (absolute continuity)")


def unrolled(pair: Pair, caps: Array | None = None, xi: float = 1.0) -> Any:
    """T2 before its last step: |Delta| <= 2 xi E_mu sum_j D_j (1 - (1 - tau_j) prod_{i<j} min(1, rho_i)).

    caps (T,) of D_t, default the pair's own; ones give the form without caps, at most 2 xi E_mu sum_j D_j.
    """
    require_support(pair)
    tau = suffix_products(pair.caps if caps is None else caps)[:, None]
    both = np.minimum(1, 1 + pair.path_excess)
    shared = np.cumprod(np.concatenate([np.ones_like(both[:1]), both[:-1]]), axis=0)
    return 2 * xi * value_of(pair, pair.path_divergence * (1 - (1 - tau) * shared))


def residual_moment(pair: Pair) -> tuple[float, float]:
    """T1's second moment both ways: E_mu (m - 1 - sum x)^2, and chi2(P_pi || P_mu) + E_mu sum v - 2 E_pi sum v."""
    require_support(pair)
    mu, pi, k = pair.reach_mu[-1], pair.reach_pi[-1], kernel(pair)
    v = pair.along_paths(chi_squares(pair)).sum(axis=0)
    return float(mu @ ratio(k, mu) ** 2), float(mu @ ratio(pi - mu, mu) ** 2 + mu @ v - 2 * (pi @ v))


def truncated_gain(pair: Pair, rewards: Array, cap: float) -> float:
    """T1's lower bound of J(pi) - J(mu) for R >= 0, with or without pi << mu: E_mu[(min(m, cap) - 1) R]."""
    m = ratio(pair.reach_pi[-1], pair.reach_mu[-1])
    return float(pair.reach_mu[-1] @ ((np.minimum(m, cap) - 1) * rewards))


def action_values(pair: Pair, rewards: Array) -> Levels:
    """Q_t(s, a) = E_mu[R | s, a]: T arrays (P * V**t, V); rewards (leaves,)."""
    out, below = [], rewards
    for level in reversed(pair.mu):
        out.append(below.reshape(level.shape))
        below = (level * out[-1]).sum(axis=1)
    return tuple(reversed(out))


def action_variances(pair: Pair, rewards: Array) -> Array:
    """E_mu Var(Q_t | s_t) by position, (T,): T5 says that they add up to the variance of R given the prompt."""
    spread = []
    for q, m, value_at in zip(pair.reach_mu, pair.mu, action_values(pair, rewards), strict=False):
        mean = (m * value_at).sum(axis=1, keepdims=True)
        spread.append(q @ (m * (value_at - mean) ** 2).sum(axis=1))
    return np.array(spread)
