"""Algorithm 1 of the paper: the CPPO token mask, one response, one token after the other."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

Number = Any  # int, float, numpy scalar or fractions.Fraction: whatever supports + - * / and <=
Numbers = Sequence[Number]


class TokenStep(NamedTuple):
    """What Algorithm 1 knows at token t. Sums with the suffix `_before` run over tokens j < t."""

    position_weight: Number  # w_t, Eq. 9
    divergence: Number  # D_t
    weighted_divergence: Number  # Z_t = w_t D_t
    S_before: Number  # S_{t-1} = sum_{j<t} Z_j
    W_before: Number  # W_{t-1} = sum_{j<t} w_j
    threshold: Number  # c_t = min(delta, delta + delta_b W_{t-1} - S_{t-1})
    keep: bool  # M_t
    reason: str  # "toward" | "inside" | "token" | "prefix" | "both"


def linear_weights(length: int, w_min: Number) -> list[Number]:
    """Eq. 9: from 1 at the first token to `w_min` at the last; a single token weighs 1 (ours: the formula is 0/0)."""
    if length == 1:
        return [w_min / w_min]  # one, in the caller's own number type
    return [1 - (1 - w_min) * t / (length - 1) for t in range(length)]


def quantile(values: Numbers, q: Number) -> Number:
    """Linearly interpolated quantile: position q (n - 1) in the sorted values."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def dynamic_budget(divergences: Numbers, floor: Number, cap_factor: Number = 2, q: Number = 0.9) -> Number:
    """Eq. 22: the response's own P90 of the unweighted D_t, held within [floor, cap_factor * floor]."""
    if len(divergences) == 0:
        return floor
    return min(cap_factor * floor, max(floor, quantile(divergences, q)))


def cppo_steps(
    divergences: Numbers, away: Sequence[bool], *, delta: Number, delta_b: Number | None, weights: Numbers
) -> list[TokenStep]:
    """Algorithm 1 with every intermediate.

    divergences: D_t of one response. away: True where A_t (rho_t - 1) > 0. delta_b: None for no prefix budget.
    weights: w_t, for example `linear_weights(T, w_min)`.
    Every token, kept or not, enters S and W: they measure how far the policy has drifted, not what was spent.
    """
    steps = []
    S = W = 0  # S_{t-1}, W_{t-1}
    for D, w, moves_away in zip(divergences, weights, away, strict=True):
        Z = w * D
        slack = math.inf if delta_b is None else delta + delta_b * W - S
        c = min(delta, slack)
        if not moves_away:
            reason = "toward"
        elif Z <= c:
            reason = "inside"
        elif slack >= Z:
            reason = "token"
        elif delta >= Z:
            reason = "prefix"
        else:
            reason = "both"
        steps.append(TokenStep(w, D, Z, S, W, c, reason in ("toward", "inside"), reason))
        S += Z
        W += w
    return steps


def cppo_token_mask(
    divergences: Numbers, away: Sequence[bool], *, delta: Number, delta_b: Number | None, w_min: Number
) -> list[bool]:
    """The mask M_t of Algorithm 1 with the linear schedule over the response's own length."""
    weights = linear_weights(len(divergences), w_min)
    return [s.keep for s in cppo_steps(divergences, away, delta=delta, delta_b=delta_b, weights=weights)]


def soft_gate(
    steps: Sequence[TokenStep], *, delta: Number, delta_b: Number | None, kind: str = "reciprocal"
) -> list[Number]:
    """Appendix C.1: gate g(x_t) with x_t = max(Z_t / delta, S_t / (delta + delta_b W_{t-1})); toward tokens keep 1.

    kind: "reciprocal" g(x) = min(1, 1/x); "sigmoid" (ours, after SAPO) min(1, 4 p (1 - p) / x), p = sigmoid(x - 1).
    Both satisfy x g(x) <= 1. delta_b: None for no prefix budget.
    """
    gates: list[Number] = []
    for step in steps:
        x = step.weighted_divergence / delta
        if delta_b is not None:
            x = max(x, (step.S_before + step.weighted_divergence) / (delta + delta_b * step.W_before))
        if step.reason == "toward" or x <= 1:
            gates.append(1)
        elif kind == "reciprocal":
            gates.append(1 / x)
        else:
            tail = math.exp(-(x - 1))  # p = 1 / (1 + tail)
            gates.append(4 * tail / (1 + tail) ** 2 / x)
    return gates


def budget_gate(steps: Sequence[TokenStep], *, delta: Number, delta_b: Number | None) -> list[Number]:
    """Causal water-filling (ours): g_t = min(1, c_t / Z_t), with the budget charged for what passed, g_t Z_t.

    What the gate lets pass never sums to more than delta + delta_b W_{t-1}, which the soft gate of Appendix C.1 does
    not achieve. Tokens toward mu are charged like the others, but keep weight 1: that is the mask's clause.
    """
    gates: list[Number] = []
    spent: Number = 0
    for step in steps:
        room = delta if delta_b is None else min(delta, delta + delta_b * step.W_before - spent)
        gate = 1 if step.weighted_divergence <= room else room / step.weighted_divergence
        spent += gate * step.weighted_divergence
        gates.append(1 if step.reason == "toward" else gate)
    return gates
