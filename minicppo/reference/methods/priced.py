"""T2's price as position weight, and T3's gate on the policy: CPPO's loop with other weights, or another charge."""

from dataclasses import replace
from typing import Any

from minicppo.reference.loops import Response, loop
from minicppo.reference.mask import budget_gate, cppo_steps
from minicppo.reference.methods.cppo import allowed_drift, cppo


@loop("shadow")
def shadow(response: Response, *, delta: float, w_min: float, length: str | int = "own", **rest: Any) -> list[float]:
    """w_t = w_min + (1 - w_min) p_t / p_1, p_t = 1 - (1 - l)^(T - t)."""
    own = len(response.mu)
    total = length if isinstance(length, int) else response.width or own if length == "padded" else own
    largest = min(1.0, delta / w_min) if w_min > 0 else 1.0
    prices = [1 - (1 - largest) ** (total - t) for t in range(1, own + 1)]
    weights = [w_min + (1 - w_min) * (price / prices[0] if total > 1 else 1.0) for price in prices]
    return cppo(replace(response, given_weights=weights), delta=delta, w_min=w_min, length=length, **rest)


@loop("policy-gate")
def policy_gate(
    response: Response,
    *,
    delta: float,
    w_min: float,
    schedule: str,
    length: str | int,
    seed: int,
    divergence: str,
    ratio_cap: float,
    direction: str,
    topk_variant: str,
    **allowance: Any,
) -> list[float]:
    """rho where the water-filling gate is open or the token moves toward mu, else 0."""
    D, away = response.divergence(divergence, topk_variant), response.away(direction, divergence)
    w, allowed = response.position_weights(w_min, schedule, length), allowed_drift(D, **allowance)
    gates = budget_gate(cppo_steps(D, away, delta=delta, delta_b=allowed, weights=w), delta=delta, delta_b=allowed)
    return [(g == 1) * min(rho, ratio_cap) for g, rho in zip(gates, response.ratios, strict=True)]
