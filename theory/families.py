"""Pairs that satisfy a premise by construction, so that no test has to filter.

The one tool is the mixture pi_g = mu + g (pi - mu): its divergence is exactly g D at every state (paper C.2),
so any cap or budget is met by choosing g. Gates are T arrays (P * V**t,) of numbers in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicppo.bounds.budget import Budget
from theory.tabular import Array, Levels, Pair, random_policy, uniform_prior

Gate = Callable[[int, Array, Array], Array]
"""(t, Z_t (rows,), S_{t-1} (rows,)) -> gate in [0, 1] (rows,)."""


def random_pair(
    rng: np.random.Generator,
    horizon: int,
    vocab: int,
    prompts: int = 1,
    concentration: float = 1.0,
    exact: bool = False,
) -> Pair:
    """Two independent random policies with full support; equally likely prompts."""
    mu, pi = (random_policy(rng, horizon, vocab, prompts, concentration, exact) for _ in range(2))
    return Pair(mu, pi, uniform_prior(prompts, exact))


def noisy_pair(rng: np.random.Generator, horizon: int, vocab: int, scale: float) -> Pair:
    """A random mu and a pi whose logits are mu's plus Gaussian noise of the given scale."""
    mu = random_policy(rng, horizon, vocab)
    pi = []
    for level in mu:
        raw = level * np.exp(scale * rng.standard_normal(level.shape))
        pi.append(raw / raw.sum(axis=1, keepdims=True))
    return Pair(mu, tuple(pi), uniform_prior())


def apply_gate(pair: Pair, gates: Sequence[Array]) -> Pair:
    """pi_g = mu + g (pi - mu) at every state; D(pi_g) = g D (paper C.2). gates: T arrays (P * V**t,)."""
    mixed = tuple(m + g[:, None] * (p - m) for m, p, g in zip(pair.mu, pair.pi, gates, strict=True))
    return Pair(pair.mu, mixed, pair.prior)


def mixture(pair: Pair, weight: Any) -> Pair:
    """The same gate at every state."""
    return apply_gate(pair, [np.full(len(d), weight, dtype=d.dtype) for d in pair.divergence])


def capped(pair: Pair, caps: Array) -> Pair:
    """D_t <= caps[t] at every state, by mixing with mu where needed. caps: (T,)."""
    return apply_gate(pair, [_shrink(d, np.full(len(d), cap)) for d, cap in zip(pair.divergence, caps, strict=True)])


def causal_gates(pair: Pair, weights: Array, gate: Gate, count_gated: bool) -> Levels:
    """Walk the tree once: each state's gate from its own Z_t = w_t D_t and the sum S_{t-1} along its prefix.

    count_gated: S sums g_t Z_t (what pi_g spends) instead of Z_t (what pi spends). Returns T arrays (P * V**t,).
    """
    spent, gates = np.zeros_like(pair.divergence[0]), []
    for t, divergence in enumerate(pair.divergence):
        z = weights[t] * divergence
        gates.append(gate(t, z, spent))
        spent = np.repeat(spent + (gates[-1] * z if count_gated else z), pair.vocab)
    return tuple(gates)


def waterfill_gates(pair: Pair, budget: Budget) -> Levels:
    """Causal water-filling (ours): g_t = min(1, c_t / Z_t) with S counting what pi_g spends.

    Every prefix of pi_g keeps the budget. Returns T arrays (P * V**t,).
    """

    def fill(t: int, z: Array, spent: Array) -> Array:
        return _shrink(z, np.minimum(budget.caps[t], budget.limits[t] - spent))

    return causal_gates(pair, budget.weights, fill, count_gated=True)


def budgeted(pair: Pair, budget: Budget) -> Pair:
    """Every prefix meets the budget: the mixture with `waterfill_gates`."""
    return apply_gate(pair, waterfill_gates(pair, budget))


def path_budgeted(pair: Pair, total: float) -> Pair:
    """sum_t D_t <= total along every path: early tokens spend first."""

    def fill(t: int, z: Array, spent: Array) -> Array:
        return _shrink(z, total - spent)

    return apply_gate(pair, causal_gates(pair, np.ones(pair.horizon), fill, count_gated=True))


def rare_token(caps: Array, epsilon: float = 1e-6, vocab: int = 2) -> Pair:
    """The adversary of F3 (ours): in every state mu gives the last token epsilon, pi epsilon + caps[t].

    Every D_t equals caps[t] <= 1 - epsilon; other tokens have probability 0. caps: (T,).
    """
    mu, pi = [], []
    for t, cap in enumerate(caps):
        rows = vocab**t
        mu.append(np.tile([1 - epsilon] + [0.0] * (vocab - 2) + [epsilon], (rows, 1)))
        pi.append(np.tile([1 - epsilon - cap] + [0.0] * (vocab - 2) + [epsilon + cap], (rows, 1)))
    return Pair(tuple(mu), tuple(pi), uniform_prior())


def lottery(horizon: int, cap: float, mean: float, epsilon: float = 1e-6) -> Pair:
    """Two prompts: with probability mean / cap the rare-token adversary at `cap`, otherwise pi = mu.

    E_mu D_t = mean at every t and D_t <= cap everywhere, yet the drift is all in one prompt (ours; sharpness
    of Theorem 1 when its budget holds only in expectation).
    """
    hot = rare_token(np.full(horizon, cap), epsilon)
    mu = tuple(np.concatenate([level, level]) for level in hot.mu)
    pi = tuple(np.concatenate([p, m]) for p, m in zip(hot.pi, hot.mu, strict=True))
    share = mean / cap
    return Pair(mu, pi, np.array([share, 1 - share]))


def _shrink(z: Array, room: Array) -> Array:
    """min(1, room / z), and 1 where z = 0; a room below 0 (rounding) counts as 0."""
    gates = np.ones_like(z)
    over = z > room
    gates[over] = np.maximum(room[over], 0) / z[over]
    return gates
