"""DPPO: a limit on each token's divergence; with a predicted direction it is Predictive Divergence Masks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minicppo.rules.divergence import DIVERGENCES, TOPK_VARIANTS, predicted_away, token_divergence
from minicppo.rules.method import Method, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class DPPO(Method):
    """Mask a token that moves away from mu when its divergence exceeds delta, wherever it stands."""

    family = "dppo"
    formula = "M_DPPO min(rho, C)"
    source = "arXiv 2602.04879"

    delta: float = hyper(0.15, "DPPO: 0.15 in its stability study, 0.2 at scale; KL 0.05", low=0)
    divergence: str = hyper("binary_tv", "paper: topk_tv with K = 20; released codes: binary_tv", choices=DIVERGENCES)
    ratio_cap: float = hyper(math.inf, "the paper has none; DPPO's scaling runs use 5", low=0)
    direction: str = hyper("ratio", "paper Eq. 10; 'predicted' is arXiv 2607.10848", choices=("ratio", "predicted"))
    topk_variant: str = hyper("union", "DPPO's paper; 'replace_last' is its authors' code", choices=TOPK_VARIANTS)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        D, away, weight, stats = self.read(batch)
        keep = ~(away & (torch.tensor(self.delta, dtype=D.dtype) < D))
        return masked_weights(batch, keep, weight, away=away, divergence=D, stats=stats)

    def read(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Of each token D_t, whether it moves away from mu, and min(rho, C); and what to log of the cap C."""
        D = token_divergence(batch, self.divergence, topk_variant=self.topk_variant)
        away = predicted_away(batch) if self.direction == "predicted" else batch.away
        stats = {} if math.isinf(self.ratio_cap) else {"ratio/above_cap": batch.ratio > self.ratio_cap}
        return D, away, batch.ratio.clamp(max=self.ratio_cap), stats


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
