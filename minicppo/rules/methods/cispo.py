"""Clipped importance weights that leave every token its gradient: CISPO, and MinPRO's prefix minimum."""

import math
from dataclasses import dataclass

import torch

from minicppo.rules.method import Method, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class CISPO(Method):
    """Clipped importance weight, every token keeps a gradient."""

    family = "cispo"
    formula = "clip(rho, w_low, w_max)"
    source = "arXiv 2506.13585"

    w_max: float = hyper(5.0, "absolute maximum weight; ScaleRL's 5 (not published by MiniMax-M1)", low=0)
    w_low: float = hyper(0.0, "no lower bound in practice; 0.8 would defeat MinPRO", low=0, high=1, closed=True)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        return masked_weights(batch, batch.mask, batch.ratio.clamp(self.w_low, self.w_max))


@dataclass(frozen=True)
class MinPRO(CISPO):
    """CISPO's weight times the smallest ratio of the prefix: a bounded stand-in for the prefix product."""

    family = "minpro"
    formula = "clip(min_{i<t} rho_i * rho, w_low, w_max)"
    source = "arXiv 2601.22718"

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        running = batch.log_ratio.masked_fill(~batch.mask, math.inf).cummin(1).values
        before = torch.zeros_like(running)  # no prefix: factor 1
        before[:, 1:] = running[:, :-1].nan_to_num(posinf=0.0)
        raw = (before + batch.log_ratio).exp()
        smallest = running[:, -1:].nan_to_num(posinf=0.0).exp().sum(1)  # no column, no response: an empty sum
        weight = raw.clamp(self.w_low, self.w_max)
        return masked_weights(batch, batch.mask, weight, raw=raw, stats={"minpro/rho_min": smallest})


register(
    CISPO(summary="clipped weight, gradient everywhere"),
    CISPO(name="cispo-verl", summary="verl's example: maximum weight 1.2", w_max=1.2),
    MinPRO(summary="prefix minimum of the ratios"),
)
