"""DPPO: a limit on each token's divergence; with a predicted direction it is Predictive Divergence Masks."""

import math
from dataclasses import dataclass

import torch

from minicppo.rules.batch import TokenBatch
from minicppo.rules.divergence import away_from_mu, token_divergence
from minicppo.rules.hyper import hyper
from minicppo.rules.method import (
    DIRECTION,
    DIVERGENCE,
    RATIO_CAP,
    TOPK_VARIANT,
    Method,
    above_cap,
    masked_weights,
    register,
)
from minicppo.rules.outputs import TokenWeights


@dataclass(frozen=True)
class DPPO(Method):
    """Mask a token that moves away from mu when its divergence exceeds delta, wherever it stands."""

    family = "dppo"
    formula = "M_DPPO min(rho, C)"
    source = "arXiv 2602.04879"

    delta: float = hyper(0.15, "DPPO: 0.15 in its stability study, 0.2 at scale; KL 0.05", low=0)
    divergence: str = hyper("binary_tv", **DIVERGENCE)
    ratio_cap: float = hyper(math.inf, **RATIO_CAP)
    direction: str = hyper("ratio", **DIRECTION)
    topk_variant: str = hyper("union", **TOPK_VARIANT)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        D = token_divergence(batch, self.divergence, topk_variant=self.topk_variant)
        away = away_from_mu(batch, self.direction)
        keep = ~(away & (torch.tensor(self.delta, dtype=D.dtype) < D))
        weight, stats = batch.ratio.clamp(max=self.ratio_cap), above_cap(batch, self.ratio_cap)
        return masked_weights(batch, keep, weight, away=away, divergence=D, stats=stats)


register(
    DPPO(summary="Binary TV"),
    DPPO(name="dppo-kl", summary="Binary KL", divergence="binary_kl", delta=0.05),
    DPPO(name="dppo-topk", summary="Top-K TV, the paper's DPPO row", divergence="topk_tv"),
    DPPO(name="dppo-topk-kl", summary="Top-K KL", divergence="topk_kl", delta=0.05),
    DPPO(name="dppo-exact", summary="exact TV (small vocabularies)", divergence="exact_tv"),
    DPPO(name="dppo-exact-kl", summary="exact KL", divergence="exact_kl", delta=0.05),
    DPPO(
        name="pdm",
        summary="Predictive Divergence Masks: Top-K KL, predicted direction",
        divergence="topk_kl",
        delta=0.05,
        direction="predicted",
        ratio_cap=5.0,
    ),
)
