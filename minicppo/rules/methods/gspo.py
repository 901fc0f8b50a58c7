"""GSPO: a clip on the ratio of the whole response."""

from dataclasses import dataclass

from minicppo.rules.method import Method, Reason, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class GSPO(Method):
    """PPO's clip on the geometric mean of the response's ratios; all its tokens share that weight."""

    family = "gspo"
    formula = "M_GSPO(s) s"
    source = "arXiv 2507.18071"
    level = "sequence"

    clip_low: float = hyper(3e-4, "GSPO (arXiv 2507.18071)", low=0, high=1)
    clip_high: float = hyper(4e-4, "GSPO (arXiv 2507.18071)", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        A = batch.advantages
        mean = (batch.log_ratio * batch.mask).sum(1, keepdim=True) / batch.lengths.clamp(min=1)[:, None]
        s = mean.exp().expand_as(batch.ratio)
        clipped = ((A > 0) & (s > 1 + self.clip_high)) | ((A < 0) & (s < 1 - self.clip_low))
        return masked_weights(batch, ~clipped, s, raw=s, code=Reason.SEQUENCE)


register(GSPO(summary="clip on the response's mean ratio"))
