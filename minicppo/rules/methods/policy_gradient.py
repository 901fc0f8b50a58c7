"""The plain policy gradient, with and without importance weights."""

from dataclasses import dataclass

import torch

from minicppo.rules.method import Method, TokenBatch, TokenWeights, masked_weights, register


@dataclass(frozen=True)
class Reinforce(Method):
    """Policy gradient without importance weights: right on-policy only."""

    family = "reinforce"
    formula = "1"
    source = "Williams 1992"

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        return masked_weights(batch, batch.mask, torch.ones_like(batch.ratio))


@dataclass(frozen=True)
class Unmasked(Method):
    """Importance-weighted policy gradient without a mask."""

    family = "none"
    formula = "rho"
    source = "importance sampling"

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        return masked_weights(batch, batch.mask, batch.ratio)


register(
    Reinforce(summary="no importance weight, no mask"),
    Unmasked(summary="importance weight, no mask"),
)
