"""The CPPO constraint set: a cap on w_t D_t at every token and a budget on every weighted prefix sum.

With Z_t = w_t D_t, S_t = Z_1 + .. + Z_t, W_t = w_1 + .. + w_t (paper Eq. 5, 8 and 10):

    "algorithm"   Z_t <= delta,  S_t <= delta + delta_b W_{t-1}   for t <= T      paper Eq. 8, with slack
    "theorem"     Z_t <= delta,  S_t <= delta_b W_t               for t <= T      paper Eq. 5
    "premise"     Z_t <= delta,  S_t <= delta_b W_t               for t <= T - 1  all Theorem 1's proof uses
    "terminal"    Z_t <= delta,  S_T <= delta_b W_T               at the end only, as TRM-Avg (paper B.8)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Form = Literal["algorithm", "theorem", "terminal", "premise"]


def linear_weights(horizon: int, w_min: float) -> Array:
    """w_t from 1 at t = 1 linearly down to w_min at t = T; shape (T,). Paper Prop. 5; w_1 = 1 if T = 1 (ours).

    Raises ValueError for horizon < 1 or w_min outside [0, 1].

    >>> linear_weights(3, 0.5)
    array([1.  , 0.75, 0.5 ])
    """
    if horizon < 1 or not 0 <= w_min <= 1:
        raise ValueError(f"horizon={horizon} must be at least 1 and w_min={w_min} in [0, 1]")
    return 1 - (1 - w_min) * np.arange(horizon) / max(horizon - 1, 1)


@dataclass(frozen=True)
class Budget:
    """Thresholds delta, delta_b in units of D (TV in [0, 1], or chi-square for F7) and weights (T,).

    form: one of the four above. Numbers may be Fractions, with object-array weights, for exact decisions.
    Raises ValueError for negative thresholds or weights and for an unknown form.
    """

    delta: Any
    delta_b: Any
    weights: Array
    form: Form = "algorithm"

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ValueError(f"unknown form {self.form!r}; choose one of {', '.join(get_args(Form))}")
        if self.delta < 0 or self.delta_b < 0 or min(self.weights) < 0:
            raise ValueError(f"delta={self.delta}, delta_b={self.delta_b} and the weights must not be negative")

    @classmethod
    def linear(
        cls, horizon: int, delta: float = 0.15, delta_b: float = 0.02, w_min: float = 0.8, form: Form = "algorithm"
    ) -> Budget:
        """The paper's schedule and, by default, its thresholds."""
        return cls(delta, delta_b, linear_weights(horizon, w_min), form)

    @property
    def horizon(self) -> int:
        """T, tokens per response."""
        return len(self.weights)

    @cached_property
    def caps(self) -> Array:
        """The largest Z_t the token test allows, min(delta, w_t), shape (T,): no D_t exceeds 1."""
        return np.minimum(self.delta, self.weights)

    @cached_property
    def token_caps(self) -> Array:
        """l_t = min(1, delta / w_t), the largest D_t the token test allows, shape (T,); 1 where w_t = 0."""
        return np.array([1 if self.delta >= w else self.delta / w for w in self.weights])

    @cached_property
    def limits(self) -> Array:
        """The largest S_t the prefix test allows, shape (T,)."""
        total = np.cumsum(self.weights)
        if self.form == "algorithm":
            return self.delta + self.delta_b * (total - self.weights)
        limits = self.delta_b * total
        if self.form == "terminal":
            return limits[-1].repeat(self.horizon)
        if self.form == "premise":  # the last token answers to its cap alone
            limits[-1] = limits[-1] - self.delta_b * self.weights[-1] + self.delta
        return limits

    @cached_property
    def path_divergence(self) -> float:
        """B = the largest sum_t D_t of any path inside the constraints (ours; exact): see `fill_from_end`."""
        return fill_from_end(self.weights, self.caps, self.limits)


def fill_from_end(weights: Array, caps: Array, limits: Array) -> float:
    """Maximise sum_t z_t / w_t subject to z_t <= caps[t] and z_1 + .. + z_t <= limits[t]; O(T).

    Last tokens first, which is optimal because a non-increasing w makes the last tokens cheapest. A last weight of 0
    leaves D_T free: it counts 1. Raises ValueError for increasing weights or a zero weight before the last.
    """
    if np.any(np.diff(weights) > 0) or np.any(weights[:-1] <= 0):
        raise ValueError("weights must be non-increasing, and positive before the last token, to fill from the end")
    left, filled = limits[-1], 0.0
    backwards = (values[::-1].tolist() for values in (weights, caps, limits))  # plain numbers: several times faster
    for weight, cap, limit in zip(*backwards, strict=True):
        left = min(left, limit)
        spent = min(cap, left)
        filled += spent / weight if weight > 0 else 1.0
        left -= spent
    return float(filled)
