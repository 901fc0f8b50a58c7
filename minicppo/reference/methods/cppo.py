"""CPPO: g_t = gate_t min(rho_t, C), with the gate of Algorithm 1 or one of its soft forms."""

import math
from typing import Any

from minicppo.reference.loops import Floats, Response, loop
from minicppo.reference.mask import budget_gate, cppo_steps, dynamic_budget, soft_gate


def allowed_drift(
    D: Floats, *, delta_b: float, budget: str = "dynamic", cap_factor: float = 2.0, quantile: float = 0.9
) -> float | None:
    """The response's delta_b; None without a budget."""
    if budget == "dynamic":
        return float(dynamic_budget(D, delta_b, cap_factor, quantile))
    return delta_b if budget == "fixed" else None


@loop("cppo")
def cppo(
    response: Response,
    *,
    delta: float,
    w_min: float = 0.8,
    schedule: str = "linear",
    length: str | int = "own",
    seed: int = 0,
    divergence: str = "binary_tv",
    gate: str = "hard",
    ratio_cap: float = math.inf,
    direction: str = "ratio",
    topk_variant: str = "union",
    **allowance: Any,
) -> list[float]:
    """allowance: delta_b and what `allowed_drift` makes of it."""
    D = response.divergence(divergence, topk_variant)
    away, w = response.away(direction, divergence), response.position_weights(w_min, schedule, length)
    allowed = allowed_drift(D, **allowance)
    steps = cppo_steps(D, away, delta=delta, delta_b=allowed, weights=w)
    if gate == "hard":
        passed = [float(step.keep) for step in steps]
    elif gate == "budget":
        passed = budget_gate(steps, delta=delta, delta_b=allowed)
    else:
        passed = soft_gate(steps, delta=delta, delta_b=allowed, kind=gate)
    return [x * min(rho, ratio_cap) for x, rho in zip(passed, response.ratios, strict=True)]


@loop("decoupled")
def decoupled(
    response: Response,
    *,
    delta: float,
    w_min: float = 0.8,
    length: str | int = "own",
    divergence: str = "binary_tv",
    ratio_cap: float = math.inf,
    direction: str = "ratio",
    topk_variant: str = "union",
    budget_w_min: float = 1.0,
    **allowance: Any,
) -> list[float]:
    """Ours: Algorithm 1 with the weights w of the token limit and others, v, for the budget."""
    D, away = response.divergence(divergence, topk_variant), response.away(direction, divergence)
    allowed = allowed_drift(D, **allowance)
    w, v = response.position_weights(w_min, length=length), response.position_weights(budget_w_min, length=length)
    g = []
    room = math.inf if allowed is None else delta
    for t, rho in enumerate(response.ratios):
        masked = away[t] and (w[t] * D[t] > delta or v[t] * D[t] > room)
        g.append(0.0 if masked else min(rho, ratio_cap))
        room += 0 if allowed is None else v[t] * (allowed - D[t])
    return g
