"""GRPO and its kin: weights that the ratio alone decides, the plain policy gradient's among them."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minicppo.rules.batch import held
from minicppo.rules.method import Method, Reason, TokenBatch, TokenWeights, hyper, masked_weights, register


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


@dataclass(frozen=True)
class PPO(Method):
    """Gradient of min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A).

    Zero beyond the clip, on the side that moves away from mu; and where A < 0 and rho > clip_c (dual clip).
    """

    family = "ppo"
    formula = "M_PPO rho"
    source = "arXiv 1707.06347, 2402.03300, 2503.14476"

    clip_low: float = hyper(0.2, "DAPO and the paper's GRPO row", low=0, high=1)
    clip_high: float = hyper(0.28, "DAPO clip-higher, the paper's GRPO row (PPO: 0.2)", low=0)
    clip_c: float = hyper(
        math.inf, "arXiv 1912.09729; verl's default 3, TRL's delta; off as in the papers", low=1, closed=True
    )

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        return masked_weights(batch, self.within(batch.ratio, batch.advantages), batch.ratio)

    def within(self, ratio: Tensor, A: Tensor) -> Tensor:
        """Which ratios are not beyond the clips."""
        beyond = (ratio < 1 - self.clip_low) | (ratio > self.clip_c)
        return ~(((A > 0) & (ratio > 1 + self.clip_high)) | ((A < 0) & beyond))


@dataclass(frozen=True)
class RolloutIS(PPO):
    """The ratio where it lies strictly between 1 - clip_low and 1 + clip_high, zero elsewhere, whatever A's sign."""

    family = "rollout-is"
    formula = "rho in (1 - clip_low, 1 + clip_high)"
    source = "SkyRL 0.3, rollout_is"

    clip_c: float = field(default=math.inf, init=False)

    def within(self, ratio: Tensor, A: Tensor) -> Tensor:
        return (ratio > 1 - self.clip_low) & (ratio < 1 + self.clip_high)


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


def response_mean(batch: TokenBatch, values: Tensor) -> Tensor:
    """(B, 1) mean of log-ratios over a response's valid tokens, held within +-20: the mean, not its summands."""
    return held(values.sum(1, keepdim=True) / batch.lengths.clamp(min=1)[:, None])


@dataclass(frozen=True)
class GSPO(PPO):
    """PPO's clip on the geometric mean of the response's ratios; all its tokens share that weight."""

    family = "gspo"
    formula = "M_GSPO(s) s"
    source = "arXiv 2507.18071"
    level = "sequence"

    clip_low: float = hyper(3e-4, "GSPO (arXiv 2507.18071)", low=0, high=1)
    clip_high: float = hyper(4e-4, "GSPO (arXiv 2507.18071)", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        s = response_mean(batch, batch.raw_log_ratio).exp().expand_as(batch.ratio)
        return masked_weights(batch, self.within(s, batch.advantages), s, raw=s, code=Reason.SEQUENCE)


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
    Reinforce(summary="no importance weight, no mask"),
    Unmasked(summary="importance weight, no mask"),
    PPO(name="ppo", summary="symmetric ratio clip", clip_high=0.2),
    PPO(name="grpo", summary="clip-higher, the paper's GRPO row"),
    PPO(name="grpo-dual", summary="the same with a dual clip, verl's default", clip_c=3.0),
    RolloutIS(summary="a band of ratios, whatever the direction"),
    CISPO(summary="clipped weight, gradient everywhere"),
    CISPO(name="cispo-verl", summary="verl's example: maximum weight 1.2", w_max=1.2),
    MinPRO(summary="prefix minimum of the ratios"),
    GSPO(summary="clip on the response's mean ratio"),
    GSPO(name="luspo", summary="wider; its recipe sums tokens (arXiv 2602.05261)", clip_low=2e-3, clip_high=2.5e-3),
    SAPO(summary="sigmoid in the place of the clip"),
    DRPO(summary="quadratic penalty, weighted by mu"),
    DRPO(name="spo", summary="quadratic penalty, not weighted by mu", mu_weighted=False),
)
