"""A weight and beside it a pull toward mu that does not depend on the advantage: prime-rl's losses and DRO."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minicppo.rules.method import Method, TokenBatch, TokenWeights, hyper, masked_weights, register
from minicppo.rules.methods.dppo import DPPO


def pulled(batch: TokenBatch, out: TokenWeights, pull: Tensor) -> TokenWeights:
    """The weights with the gradient -pull of a penalty added: g - pull / A. Left out where A = 0: it has no g A.

    A masked token that is pulled keeps its reason, but counts as gated, not as masked.
    """
    extra = torch.where(batch.advantages == 0, 0.0, -pull / batch.advantages) * batch.mask
    return replace(out, weight=(out.weight + extra).float(), token_mask=out.token_mask | (extra != 0))


@dataclass(frozen=True)
class PrimeRL(DPPO):
    """DPPO's mask and a penalty tau (log rho)^2 on every token; `symmetric` masks tokens toward mu, too (IPO)."""

    family = "prime-rl"
    formula = "M_DPPO min(rho, C) - 2 tau log(rho) / A"
    source = "prime-rl 0.8.0; arXiv 2602.04879, 2602.02276"

    delta: float = hyper(0.2, "prime-rl's default, both sides; IPO: 0.1", low=0)
    tau: float = hyper(1e-3, "prime-rl's default", low=0, closed=True)
    symmetric: bool = hyper(False, "prime-rl's IPO: whatever the direction", choices=(True, False))

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        D, away, weight, stats = self.read(batch)
        far = torch.tensor(self.delta, dtype=D.dtype) < D
        out = masked_weights(batch, ~(far & (away | self.symmetric)), weight, away=away, divergence=D, stats=stats)
        return pulled(batch, out, 2 * self.tau * batch.log_ratio)


@dataclass(frozen=True)
class DRO(Method):
    """Gradient of A log pi - beta / 2 (log rho)^2: no importance weight, a pull toward mu."""

    family = "dro"
    formula = "1 - beta log(rho) / A"
    source = "arXiv 2405.19107"

    beta: float = hyper(0.05, "Tinker's default", low=0, closed=True)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        out = masked_weights(batch, batch.mask, torch.ones_like(batch.ratio))
        return pulled(batch, out, self.beta * batch.log_ratio)


register(
    PrimeRL(summary="its default: DPPO and a squared log ratio"),
    PrimeRL(name="ipo", summary="its IPO: both directions masked", delta=0.1, symmetric=True),
    DRO(summary="no importance weight, a squared log ratio"),
)
