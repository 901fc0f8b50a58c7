"""TRM: accept or reject a whole response by its divergences."""

import math
from dataclasses import dataclass

from minicppo.rules.divergence import DIVERGENCES, ESTIMATES, TOPK_VARIANTS, token_divergence
from minicppo.rules.method import Method, Reason, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class TRM(Method):
    """Reject a whole response, whatever its direction, when its largest or its mean divergence exceeds a limit."""

    family = "trm"
    formula = "M(y) rho"
    source = "arXiv 2512.23075"
    level = "sequence"

    delta_max: float = hyper(math.inf, "TRM (arXiv 2512.23075): 0.05 alone, 0.1 with the average", low=0)
    delta_avg: float = hyper(math.inf, "TRM (arXiv 2512.23075): 0.001 alone, 0.002 with the max", low=0)
    divergence: str = hyper(
        "topk_kl", "TRM: KL, or k3 for the average and |log ratio| for the max", choices=(*DIVERGENCES, *ESTIMATES)
    )
    topk_variant: str = hyper("union", "DPPO's paper; 'replace_last' is its authors' code", choices=TOPK_VARIANTS)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        D = token_divergence(batch, self.divergence, topk_variant=self.topk_variant)
        accepted = D.amax(1) <= self.delta_max if D.shape[1] else batch.lengths == 0
        accepted &= D.sum(1) <= self.delta_avg * batch.lengths
        keep = accepted[:, None].expand_as(batch.mask)
        return masked_weights(batch, keep, batch.ratio, code=Reason.SEQUENCE, divergence=D)


register(
    TRM(name="trm-max", summary="largest Top-K KL", delta_max=0.05),
    TRM(name="trm-avg", summary="mean Top-K KL", delta_avg=0.001),
    TRM(name="trm-both", summary="largest and mean Top-K KL", delta_max=0.1, delta_avg=0.002),
    TRM(name="trm-max-exact", summary="largest exact KL", delta_max=0.05, divergence="exact_kl"),
    TRM(name="trm-avg-exact", summary="mean exact KL", delta_avg=0.001, divergence="exact_kl"),
    TRM(name="trm-max-logratio", summary="largest |log ratio|", delta_max=0.05, divergence="abs_log_ratio"),
    TRM(name="trm-avg-k3", summary="mean k3 estimate of KL", delta_avg=0.001, divergence="k3"),
)
