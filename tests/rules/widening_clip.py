"""A method as a user would add it: PPO's clip of the ratio, wider late in the response and where all of it has drifted.

Loaded as a plugin by test_planted_bugs.py, which also plants bugs in it.
"""

from dataclasses import dataclass

from minicppo.reference import Response, loop
from minicppo.rules import Method, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class WideningClip(Method):
    """Zero beyond 1 +- b / w_t on the side that moves away; b: the response's mean |rho - 1|, within [clip, 2 clip]."""

    family = "widening-clip"
    formula = "M rho"
    source = "ours, for this test"

    clip: float = hyper(0.2, "PPO's", low=0, high=1)
    w_min: float = hyper(0.5, "ours", low=0, high=1)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        A, rho, valid = batch.advantages, batch.ratio, batch.mask
        rank = valid.cumsum(1) - 1
        length = batch.lengths[:, None]
        w = 1 - (1 - self.w_min) * rank / (length - 1).clamp(min=1)
        drift = ((rho - 1).abs() * valid).sum(1, keepdim=True) / length.clamp(min=1)
        b = drift.clamp(self.clip, 2 * self.clip) / w
        clipped = (A > 0) & (rho > 1 + b)
        clipped |= (A < 0) & (rho < 1 - b)
        return masked_weights(batch, ~clipped, rho)


@loop("widening-clip")
def widening_clip(response: Response, *, clip: float, w_min: float) -> list[float]:
    drift = sum(abs(rho - 1) for rho in response.ratios) / len(response.ratios)
    g = []
    for w, rho, a in zip(response.position_weights(w_min), response.ratios, response.advantages, strict=True):
        b = min(max(drift, clip), 2 * clip) / w
        g.append(0.0 if (a > 0 and rho > 1 + b) or (a < 0 and rho < 1 - b) else rho)
    return g


register(WideningClip(summary="PPO's clip, widening"))
