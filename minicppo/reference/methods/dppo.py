"""DPPO: g_t = min(rho_t, C), but 0 where the token moves away from mu and D_t > delta."""

import math

from minicppo.reference.loops import Response, loop


@loop("dppo")
def dppo(
    response: Response,
    *,
    delta: float,
    divergence: str = "binary_tv",
    ratio_cap: float = math.inf,
    direction: str = "ratio",
    topk_variant: str = "union",
) -> list[float]:
    g = []
    D, away = response.divergence(divergence, topk_variant), response.away(direction, divergence)
    for rho, d, moves_away in zip(response.ratios, D, away, strict=True):
        g.append(0.0 if moves_away and d > delta else min(rho, ratio_cap))
    return g
