"""What a gradient mask does not do: small gradient flows in which the policy leaves the budget (ours).

A mask stops the gradient of a token's own term. It projects nothing: a step may overshoot, another token may
move the same parameters, and earlier tokens may move after later ones were tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicppo.bounds.budget import Budget
from theory.gate import keeps

Vector = NDArray[Any]


@dataclass(frozen=True)
class Flow:
    """A trajectory. theta: (steps,); divergence: (steps, T), TV per token; kept: (steps, T), the mask."""

    theta: Vector
    divergence: Vector
    kept: Vector

    @property
    def final(self) -> Vector:
        """D_t where the flow stopped, shape (T,)."""
        return np.asarray(self.divergence[-1])


def tests_along(budget: Budget, divergence: Vector) -> Vector:
    """I_t of one response, shape (T,) bool; S counts every token (paper Alg. 1)."""
    z = budget.weights * divergence
    before = np.cumsum(z) - z
    return np.array([bool(keeps(budget, t, z[t], before[t])) for t in range(budget.horizon)])


def shared_parameter_flow(slopes: Vector, budget: Budget, step: float = 2e-3, limit: float = 20.0) -> Flow:
    """pi(1 | s_t) = sigmoid(slopes[t] * theta) over two letters, mu at theta = 0, all advantages positive.

    Kept tokens push theta up, each step by at most `step` in any logit; the flow stops when all are
    masked, or at theta = `limit`. Raises ValueError for slopes that are not positive.
    """
    if not (slopes > 0).all():
        raise ValueError(f"slopes={slopes} must be positive, so that both tokens push the same way")
    theta = 0.0
    rows: list[tuple[float, Vector, Vector]] = []
    while True:
        divergence = 1 / (1 + np.exp(-slopes * theta)) - 0.5
        kept = tests_along(budget, divergence)
        rows.append((theta, divergence, kept))
        if not kept.any() or theta >= limit:
            return Flow(*(np.array(column) for column in zip(*rows, strict=True)))
        theta += step / float(slopes.max())


def fill_last_to_first(budget: Budget) -> Vector:
    """D (T,) when each token in turn, from the last to the first, rises until its own test stops it.

    No parameter is shared. Each token is tested against an untouched prefix, so it takes the whole token cap.
    """
    divergence = np.zeros(budget.horizon)
    for t in range(budget.horizon - 1, -1, -1):
        before = float((budget.weights * divergence)[:t].sum())
        divergence[t] = max(0.0, min(budget.caps[t], budget.limits[t] - before)) / budget.weights[t]
    return divergence


def fill_together(horizon: int, delta: float, delta_b: float) -> Vector:
    """D_t = delta_b + (delta - delta_b) / t, (T,): where tokens that rise at one rate stop.

    Premise: w = 1 and delta_b <= delta. Their sum exceeds the budget delta + delta_b (T - 1) by (delta - delta_b)(H_T -
    1).
    """
    return delta_b + (delta - delta_b) / np.arange(1, horizon + 1)


def simulate_together(budget: Budget, step: float = 1e-4) -> Vector:
    """The same flow by small steps: every kept token rises by `step` until none is kept. Shape (T,)."""
    divergence = np.zeros(budget.horizon)
    while True:
        z = budget.weights * divergence
        kept = z + step <= np.minimum(budget.caps, budget.limits - (np.cumsum(z) - z))
        if not kept.any():
            return divergence
        divergence[kept] += step


def toward_step_tv_rate(mu: Vector, pi: Vector, token: int, sign: int) -> float:
    """d TV(mu, pi) / d eta for one softmax-logit ascent step on sign * log pi(token); shapes (V,).

    Positive for some tokens that move toward mu: keeping them all is not a contraction when V >= 3.
    """
    gradient = sign * ((np.arange(len(pi)) == token) - pi)
    change = pi * (gradient - pi @ gradient)
    return float(np.sign(pi - mu) @ change) / 2
