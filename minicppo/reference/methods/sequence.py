"""Weights that a whole response decides: GMPO, off-policy sequence masking, VESPO and TOPR."""

import math

from minicppo.reference.loops import Response, loop
from minicppo.reference.methods.grpo import ppo


@loop("gmpo")
def gmpo(response: Response, *, clip_low: float, clip_high: float) -> list[float]:
    """g_t = s, the geometric mean of the clipped ratios; 0 where the ratio is clipped. The clips are of log rho."""
    clipped, inside = [], []
    for rho, a in zip(response.ratios, response.advantages, strict=True):
        x = math.log(rho)
        held = min(x, clip_high) if a > 0 else max(x, -clip_low) if a < 0 else 0.0
        clipped.append(held)
        inside.append(a == 0 or held == x)
    s = math.exp(sum(clipped) / len(clipped))
    return [s if each else 0.0 for each in inside]


@loop("opsm")
def opsm(response: Response, *, delta: float, **clips: float) -> list[float]:
    """PPO's g_t; 0 everywhere where the mean advantage is negative and the mean of log(mu / pi) exceeds delta."""
    n = len(response.mu)
    gap = -sum(math.log(rho) for rho in response.ratios) / n
    if sum(response.advantages) < 0 and gap > delta:
        return [0.0] * n
    return ppo(response, **clips)


@loop("vespo")
def vespo(response: Response, *, k_pos: float, lam_pos: float, k_neg: float, lam_neg: float) -> list[float]:
    """g_t = W^k exp(lam (1 - W)), W the product of the ratios; k and lam by the sign of A_t."""
    W = math.prod(response.ratios)
    sides = [(k_pos, lam_pos) if a >= 0 else (k_neg, lam_neg) for a in response.advantages]
    return [W**k * math.exp(lam * (1 - W)) for k, lam in sides]


@loop("topr")
def topr(response: Response, *, per: str) -> list[float]:
    """g_t = 1 where A_t > 0, else min(rho_t, 1), or the product of all ratios in the place of rho_t."""
    W = math.prod(response.ratios)
    tokens = zip(response.ratios, response.advantages, strict=True)
    return [1.0 if a > 0 else min(W if per == "sequence" else rho, 1.0) for rho, a in tokens]
