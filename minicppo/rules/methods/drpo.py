"""DRPO and SPO: a quadratic penalty on the ratio."""

from dataclasses import dataclass

import torch

from minicppo.rules.method import Method, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class DRPO(Method):
    """Gradient of rho A - |A| mu (rho - 1)^2 / (2 delta).

    The weight falls linearly with |pi - mu| and may turn negative.
    """

    family = "drpo"
    formula = "(1 - sign(A (rho - 1)) |pi - mu| / delta) rho"
    source = "arXiv 2606.09821"

    delta: float = hyper(12.5, "DRPO (arXiv 2606.09821): so large that it hardly acts; try < 1", low=0)
    mu_weighted: bool = hyper(True, "DRPO: true; false is SPO", choices=(True, False))

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        excess = batch.log_ratio.expm1().abs()
        if self.mu_weighted:
            excess = excess * batch.rollout_log_probs.exp()
        sign = torch.sign(batch.advantages * batch.log_ratio)
        return masked_weights(batch, batch.mask, (1 - sign * excess / self.delta) * batch.ratio)


register(
    DRPO(summary="quadratic penalty, weighted by mu"),
    DRPO(name="spo", summary="quadratic penalty, not weighted by mu", mu_weighted=False),
)
