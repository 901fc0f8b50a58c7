"""TRM: g_t = rho_t in a response with max_t D_t <= delta_max and mean_t D_t <= delta_avg, 0 in any other."""

import math

from minicppo.reference.loops import Response, loop


@loop("trm")
def trm(
    response: Response,
    *,
    delta_max: float = math.inf,
    delta_avg: float = math.inf,
    divergence: str = "topk_kl",
    topk_variant: str = "union",
) -> list[float]:
    D = response.divergence(divergence, topk_variant)
    accepted = max(D) <= delta_max and sum(D) / len(D) <= delta_avg
    return [rho if accepted else 0.0 for rho in response.ratios]
