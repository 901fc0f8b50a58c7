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
@loop("decoupled")
def cppo(
    response: Response,
    *,
    delta: float,
    w_min: float = 0.8,
    budget_w_min: float | None = None,
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
    """allowance: delta_b and what `allowed_drift` makes of it. budget_w_min (ours): other weights for the budget."""
    D, away = response.divergence(divergence, topk_variant), response.away(direction, divergence)
    w, allowed = response.position_weights(w_min, schedule, length), allowed_drift(D, **allowance)
    steps = cppo_steps(D, away, delta=delta, delta_b=allowed, weights=w)
    if budget_w_min is not None:  # the token limit by w, the prefix's by v
        v = response.position_weights(budget_w_min, length=length)
        budgeted = cppo_steps(D, away, delta=delta, delta_b=allowed, weights=v)
        capped = cppo_steps(D, away, delta=delta, delta_b=None, weights=w)
        both = zip(capped, budgeted, strict=True)
        passed = [float(a.keep and b.reason not in ("prefix", "both")) for a, b in both]
    elif gate == "hard":
        passed = [float(step.keep) for step in steps]
    elif gate == "budget":
        passed = budget_gate(steps, delta=delta, delta_b=allowed)
    else:
        passed = soft_gate(steps, delta=delta, delta_b=allowed, kind=gate)
    return [x * min(rho, ratio_cap) for x, rho in zip(passed, response.ratios, strict=True)]
