"""prime-rl's losses and DRO: a weight, and a pull toward mu that does not depend on the advantage."""

import math
from typing import Any

from minicppo.reference.loops import Response, loop


def pull(strength: float, a: float) -> float:
    """What a penalty with the derivative `strength` adds to g; nothing where A = 0, where it has no g A."""
    return 0.0 if a == 0 else -strength / a


@loop("prime-rl")
def prime_rl(
    response: Response, *, delta: float, tau: float, symmetric: bool, divergence: str = "binary_tv", **rest: Any
) -> list[float]:
    """g_t = min(rho_t, C), 0 where D_t > delta and the token moves away (or in any case); and tau log(rho)^2's pull."""
    away = response.away(rest["direction"], divergence)
    D = response.divergence(divergence, rest["topk_variant"])
    g = []
    for rho, a, d, moves_away in zip(response.ratios, response.advantages, D, away, strict=True):
        masked = d > delta and (moves_away or symmetric)
        g.append((0.0 if masked else min(rho, rest["ratio_cap"])) + pull(2 * tau * math.log(rho), a))
    return g


@loop("dro")
def dro(response: Response, *, beta: float) -> list[float]:
    """g_t = 1 - beta log(rho_t) / A_t."""
    return [1 + pull(beta * math.log(rho), a) for rho, a in zip(response.ratios, response.advantages, strict=True)]
