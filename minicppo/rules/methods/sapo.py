"""SAPO: a smooth gate on the ratio."""

from dataclasses import dataclass

import torch

from minicppo.rules.method import Method, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class SAPO(Method):
    """A sigmoid in the place of the clip: 4 p (1 - p) rho with p = sigmoid(tau (rho - 1))."""

    family = "sapo"
    formula = "4 p (1 - p) rho"
    source = "arXiv 2511.20347"

    tau_pos: float = hyper(1.0, "SAPO (arXiv 2511.20347)", low=0)
    tau_neg: float = hyper(1.05, "SAPO (arXiv 2511.20347)", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        tau = torch.where(batch.advantages > 0, self.tau_pos, self.tau_neg)
        p = torch.sigmoid(tau * (batch.ratio - 1))
        return masked_weights(batch, batch.mask, 4 * p * (1 - p) * batch.ratio)


register(SAPO(summary="sigmoid in the place of the clip"))
