"""GSPO: g_t = s, the geometric mean of the response's ratios, under PPO's clip."""

import math

from minicppo.reference.loops import Response, loop


@loop("gspo")
def gspo(response: Response, *, clip_low: float, clip_high: float) -> list[float]:
    s = math.exp(sum(math.log(rho) for rho in response.ratios) / len(response.mu))
    return [0.0 if (a > 0 and s > 1 + clip_high) or (a < 0 and s < 1 - clip_low) else s for a in response.advantages]
