"""Exact pairs of autoregressive policies over all V^T sequences: the ground truth of every bound here.

A policy is a tuple of T arrays. Array t has shape (P * V**t, V): one row of next-token probabilities for every state
(prompt, y_1 .. y_t), in lexicographic order, so that row i of level t has the rows i*V .. i*V + V-1 of level t + 1 as
children and the leaves are the P * V**T (prompt, response) pairs. Everything below is written with NumPy operations
that object arrays of `fractions.Fraction` also support: the same code gives float64 values and exact rationals.

Names: x_t = rho_t - 1 with rho_t = pi/mu at the sampled token; D_t(s_t) = TV(mu(.|s_t), pi(.|s_t)); u_t = E_mu D_t; J =
expected reward; L' = E_mu[R sum_t x_t], the first-order surrogate; Delta = L' - (J(pi) - J(mu)), its residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Levels = tuple[Array, ...]
"""One array per token position."""


@dataclass(frozen=True)
class Pair:
    """A rollout policy mu and a trained policy pi on the same tree, and the distribution of prompts.

    mu, pi: T arrays (P * V**t, V), rows summing to 1. prior: (P,) prompt probabilities.
    Raises ValueError when the shapes disagree.
    """

    mu: Levels
    pi: Levels
    prior: Array

    def __post_init__(self) -> None:
        prompts, vocab = len(self.prior), self.mu[0].shape[1]
        expected = [(prompts * vocab**t, vocab) for t in range(len(self.mu))]
        for name, policy in (("mu", self.mu), ("pi", self.pi)):
            shapes = [level.shape for level in policy]
            if shapes != expected:
                raise ValueError(
                    f"{name} has level shapes {shapes}; {prompts} prompts and {vocab} tokens need {expected}"
                )

    @property
    def horizon(self) -> int:
        """T, tokens per response."""
        return len(self.mu)

    @property
    def vocab(self) -> int:
        """V, tokens in the alphabet."""
        return int(self.mu[0].shape[1])

    @cached_property
    def reach_mu(self) -> Levels:
        """Probability under mu of every state: T + 1 arrays (P * V**t,), the last P_mu(prompt, response)."""
        return reach(self.mu, self.prior)

    @cached_property
    def reach_pi(self) -> Levels:
        """The same under pi."""
        return reach(self.pi, self.prior)

    @cached_property
    def excess(self) -> Levels:
        """x_t = rho_t - 1, T arrays (P * V**t, V); 0 where mu is 0, which a rollout never samples."""
        return tuple(ratio(p - m, m) for p, m in zip(self.pi, self.mu, strict=True))

    @cached_property
    def divergence(self) -> Levels:
        """D_t, total variation in [0, 1] at every state: T arrays (P * V**t,)."""
        return tuple(total_variation(m, p) for p, m in zip(self.pi, self.mu, strict=True))

    @cached_property
    def drift(self) -> Array:
        """u_t = E_mu D_t, shape (T,)."""
        return np.array([q @ d for q, d in zip(self.reach_mu, self.divergence, strict=False)])

    @cached_property
    def caps(self) -> Array:
        """l_t = max of D_t over the states mu reaches, shape (T,)."""
        return np.array([d[q > 0].max() for q, d in zip(self.reach_mu, self.divergence, strict=False)])

    @cached_property
    def path_excess(self) -> Array:
        """x_t along every response, shape (T, P * V**T)."""
        return self.along_paths(tuple(x.ravel() for x in self.excess), first=1)

    @cached_property
    def path_divergence(self) -> Array:
        """D_t along every response, shape (T, P * V**T)."""
        return self.along_paths(self.divergence)

    @cached_property
    def supported(self) -> bool:
        """pi << mu: every token pi may emit, mu may sample."""
        return all(bool(np.all((m > 0) | (p == 0))) for m, p in zip(self.mu, self.pi, strict=True))

    def along_paths(self, levels: Levels, first: int = 0) -> Array:
        """Values per state (level t: states of length t + first) repeated down to the leaves: (T, leaves)."""
        return np.array([np.repeat(v, self.vocab ** (self.horizon - first - t)) for t, v in enumerate(levels)])


def ratio(numerator: Array, denominator: Array) -> Array:
    """Elementwise quotient, 0 where the denominator is 0; float64 or Fraction."""
    out = np.zeros_like(numerator)
    positive = denominator > 0
    out[positive] = numerator[positive] / denominator[positive]
    return out


def total_variation(p: Array, q: Array) -> Array:
    """TV of the rows of two arrays (..., V): half the L1 distance, in [0, 1]."""
    return abs(p - q).sum(axis=-1) / 2


def kl(p: Array, q: Array) -> Array:
    """KL(p || q) of the rows of two float arrays (..., V), in nats; inf where q misses p's support."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(axis=-1)


def reach(policy: Levels, prior: Array) -> Levels:
    """Probability of every state of every length 0 .. T: T + 1 arrays (P * V**t,)."""
    levels = [prior]
    for level in policy:
        levels.append((levels[-1][:, None] * level).ravel())
    return tuple(levels)


def random_policy(
    rng: np.random.Generator,
    horizon: int,
    vocab: int,
    prompts: int = 1,
    concentration: float = 1.0,
    exact: bool = False,
) -> Levels:
    """A random policy with full support: Dirichlet rows (float64), or rows of small integer ratios (Fraction)."""
    shapes = [(prompts * vocab**t, vocab) for t in range(horizon)]
    if not exact:
        return tuple(rng.dirichlet(np.full(vocab, concentration), size=rows) for rows, _ in shapes)
    levels = []
    for shape in shapes:
        counts = rng.integers(1, 10, size=shape)
        rows = [[Fraction(int(c), int(row.sum())) for c in row] for row in counts]
        levels.append(np.array(rows, dtype=object))
    return tuple(levels)


def uniform_prior(prompts: int = 1, exact: bool = False) -> Array:
    """(P,) equal prompt probabilities."""
    return np.array([Fraction(1, prompts)] * prompts, dtype=object) if exact else np.full(prompts, 1.0 / prompts)


def value(leaf_probability: Array, rewards: Array) -> Any:
    """J = sum_y P(y) R(y). Shapes (leaves,), (leaves,); reward units."""
    return leaf_probability @ rewards


def improvement(pair: Pair, rewards: Array) -> Any:
    """J(pi) - J(mu), in reward units; rewards (leaves,)."""
    return value(pair.reach_pi[-1] - pair.reach_mu[-1], rewards)


def surrogate(pair: Pair, rewards: Array) -> Any:
    """L' = E_mu[R sum_t x_t], in reward units; rewards (leaves,)."""
    return value(pair.reach_mu[-1] * pair.path_excess.sum(axis=0), rewards)


def residual(pair: Pair, rewards: Array) -> Any:
    """Delta = L' - (J(pi) - J(mu)), by enumeration, in reward units; rewards (leaves,)."""
    return surrogate(pair, rewards) - improvement(pair, rewards)


def kernel(pair: Pair) -> Array:
    """K = P_pi - P_mu - P_mu sum_t x_t, shape (leaves,): Delta = -sum_y R(y) K(y) for every reward R (ours, F1)."""
    mu, pi = pair.reach_mu[-1], pair.reach_pi[-1]
    return pi - mu - mu * pair.path_excess.sum(axis=0)


def suffix_tv(pair: Pair, t: int) -> Array:
    """TV between mu and pi of the tokens after position t (1-based), from every state of length t: (P * V**t,)."""
    rows = len(pair.reach_mu[t])
    start = np.ones_like(pair.prior[:1]).repeat(rows)
    mu, pi = (reach(policy[t:], start)[-1].reshape(rows, -1) for policy in (pair.mu, pair.pi))
    return total_variation(mu, pi)


def sequence_kl(pair: Pair) -> float:
    """KL(P_mu || P_pi) of whole responses by the chain rule, sum_t E_mu KL(mu || pi at s_t), in nats."""
    steps = zip(pair.reach_mu, pair.mu, pair.pi, strict=False)
    return float(sum(q[q > 0] @ kl(m, p)[q > 0] for q, m, p in steps))
