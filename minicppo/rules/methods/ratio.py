"""Methods that look at the sampled token's ratio alone."""

import math
from typing import Annotated, Any

import torch
from torch import Tensor

from minicppo.rules.batch import TokenBatch
from minicppo.rules.hyper import Hyper, checked
from minicppo.rules.outputs import Reason, TokenWeights

ClipLow = Annotated[float, Hyper("DAPO and the paper's GRPO row", low=0, high=1)]
ClipHigh = Annotated[float, Hyper("DAPO clip-higher, the paper's GRPO row (PPO: 0.2)", low=0)]
WMax = Annotated[float, Hyper("absolute maximum weight; ScaleRL's 5 (not published by MiniMax-M1)", low=0)]
WLow = Annotated[float, Hyper("no lower bound in practice; 0.8 would defeat MinPRO", low=0, high=1, closed=True)]


def masked_weights(
    batch: TokenBatch,
    keep: Tensor,
    weight: Tensor,
    *,
    away: Tensor | None = None,
    raw: Tensor | None = None,
    code: Reason = Reason.TOKEN,
    **extra: Any,
) -> TokenWeights:
    """Zero the weight where `keep` is false and say why; the kept are TOWARD or INSIDE by their direction.

    away: the direction test, where it is not the ratio's. raw: the importance weight before clips and masks, likewise.
    """
    keep = keep & batch.mask
    reason = torch.where(batch.away if away is None else away, int(Reason.INSIDE), int(Reason.TOWARD))
    reason = torch.where(keep, reason, int(code)) * batch.mask
    return TokenWeights(
        weight=weight.float() * keep,
        token_mask=keep,
        reason=reason.to(torch.int8),
        raw_weight=(batch.ratio if raw is None else raw) * batch.mask,
        sequence_level=code == Reason.SEQUENCE,
        **extra,
    )


@checked
def reinforce(batch: TokenBatch) -> TokenWeights:
    """Policy gradient without importance weights: right on-policy only."""
    return masked_weights(batch, batch.mask, torch.ones_like(batch.ratio))


@checked
def none(batch: TokenBatch) -> TokenWeights:
    """Importance-weighted policy gradient without a mask."""
    return masked_weights(batch, batch.mask, batch.ratio)


@checked
def ppo(batch: TokenBatch, *, clip_low: ClipLow = 0.2, clip_high: ClipHigh = 0.28) -> TokenWeights:
    """Gradient of min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A).

    Zero beyond the clip, on the side that moves away from mu.
    """
    A, rho = batch.advantages, batch.ratio
    clipped = ((A > 0) & (rho > 1 + clip_high)) | ((A < 0) & (rho < 1 - clip_low))
    return masked_weights(batch, ~clipped, rho)


@checked
def cispo(batch: TokenBatch, *, w_max: WMax = 5.0, w_low: WLow = 0.0) -> TokenWeights:
    """Clipped importance weight, every token keeps a gradient."""
    return masked_weights(batch, batch.mask, batch.ratio.clamp(w_low, w_max))


@checked
def minpro(batch: TokenBatch, *, w_max: WMax = 5.0, w_low: WLow = 0.0) -> TokenWeights:
    """CISPO's weight times the smallest ratio of the prefix: a bounded stand-in for the prefix product."""
    running = batch.log_ratio.masked_fill(~batch.mask, math.inf).cummin(1).values
    before = torch.zeros_like(running)  # no prefix: factor 1
    before[:, 1:] = running[:, :-1].nan_to_num(posinf=0.0)
    raw = (before + batch.log_ratio).exp()
    smallest = running[:, -1:].nan_to_num(posinf=0.0).exp().sum(1)  # no column, no response: an empty sum
    return masked_weights(batch, batch.mask, raw.clamp(w_low, w_max), raw=raw, stats={"minpro/rho_min": smallest})


@checked
def gspo(
    batch: TokenBatch,
    *,
    clip_low: Annotated[float, Hyper("GSPO (arXiv 2507.18071)", low=0, high=1)] = 3e-4,
    clip_high: Annotated[float, Hyper("GSPO (arXiv 2507.18071)", low=0)] = 4e-4,
) -> TokenWeights:
    """PPO's clip on the geometric mean of the response's ratios; all its tokens share that weight."""
    A = batch.advantages
    mean = (batch.log_ratio * batch.mask).sum(1, keepdim=True) / batch.lengths.clamp(min=1)[:, None]
    s = mean.exp().expand_as(batch.ratio)
    clipped = ((A > 0) & (s > 1 + clip_high)) | ((A < 0) & (s < 1 - clip_low))
    return masked_weights(batch, ~clipped, s, raw=s, code=Reason.SEQUENCE)


@checked
def sapo(
    batch: TokenBatch,
    *,
    tau_pos: Annotated[float, Hyper("SAPO (arXiv 2511.20347)", low=0)] = 1.0,
    tau_neg: Annotated[float, Hyper("SAPO (arXiv 2511.20347)", low=0)] = 1.05,
) -> TokenWeights:
    """A sigmoid in the place of the clip: 4 p (1 - p) rho with p = sigmoid(tau (rho - 1))."""
    tau = torch.where(batch.advantages > 0, tau_pos, tau_neg)
    p = torch.sigmoid(tau * (batch.ratio - 1))
    return masked_weights(batch, batch.mask, 4 * p * (1 - p) * batch.ratio)


@checked
def drpo(
    batch: TokenBatch,
    *,
    delta: Annotated[float, Hyper("DRPO (arXiv 2606.09821): so large that it hardly acts; try < 1", low=0)] = 12.5,
    mu_weighted: Annotated[bool, Hyper("DRPO: true; false is SPO", choices=(True, False))] = True,
) -> TokenWeights:
    """Gradient of rho A - |A| mu (rho - 1)^2 / (2 delta).

    The weight falls linearly with |pi - mu| and may turn negative.
    """
    excess = batch.log_ratio.expm1().abs()
    if mu_weighted:
        excess = excess * batch.rollout_log_probs.exp()
    sign = torch.sign(batch.advantages * batch.log_ratio)
    return masked_weights(batch, batch.mask, (1 - sign * excess / delta) * batch.ratio)
