"""Clip-Cov and KL-Cov: hold back the tokens that move the entropy most, by their share in a covariance.

Both decide over the whole batch they are given; verl does so over a micro-batch, our trainer over a minibatch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minicppo.rules.method import Method, Reason, TokenBatch, TokenWeights, hyper, masked_weights, register
from minicppo.rules.methods.grpo import PPO
from minicppo.rules.methods.pull import pulled


def covariances(batch: TokenBatch) -> Tensor:
    """(B, T) float64 (A - mean A)(log pi - mean log pi), means over valid tokens; -inf on invalid ones.

    Rounded to 9 places, so that equal ones stay equal in whatever order a mean is summed.
    """
    count = batch.mask.sum().clamp(min=1)
    columns = (value.double() for value in (batch.advantages, batch.log_probs))
    A, x = (value - value.masked_fill(~batch.mask, 0.0).sum() / count for value in columns)
    return (A * x).round(decimals=9).masked_fill(~batch.mask, -torch.inf)


def share_of(batch: TokenBatch, share: float) -> int:
    """How many tokens are that share of the valid ones: one at least, where there is one."""
    valid = int(batch.mask.sum())
    return min(valid, max(1, int(share * valid)))


@dataclass(frozen=True)
class ClipCov(PPO):
    """PPO's clip, and no gradient for a small share of the tokens whose covariance lies in (cov_low, cov_high).

    verl draws them at random. Here they are every so-manieth of the band in the order of their covariance: as many,
    spread over it evenly, and the same at every call.
    """

    family = "clip-cov"
    formula = "M_PPO M_cov rho"
    source = "arXiv 2505.22617"
    level = "batch"

    clip_high: float = hyper(0.2, "verl's default", low=0)
    share: float = hyper(2e-4, "verl's default: of valid tokens, one at least", low=0, high=1)
    cov_low: float = hyper(1.0, "verl's default: lower end of the band", low=0)
    cov_high: float = hyper(5.0, "verl's default: upper end of the band", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        keep, cov = self.within(batch.ratio, batch.advantages), covariances(batch)
        order = cov.flatten().argsort(descending=True, stable=True)
        band = order[(keep & (cov > self.cov_low) & (cov < self.cov_high)).flatten()[order]]
        n = len(band)
        k = min(n, share_of(batch, self.share))
        places = (2 * torch.arange(k, device=band.device) + 1) * n // max(2 * k, 1)
        keep = keep.flatten().index_fill(0, band[places], False).view_as(keep)
        return masked_weights(batch, keep, batch.ratio)


@dataclass(frozen=True)
class KLCov(Method):
    """The importance weight, and a penalty beta |log rho| on the share of tokens with the largest covariances."""

    family = "kl-cov"
    formula = "rho - beta sign(log rho) / A on the top share"
    source = "arXiv 2505.22617"
    level = "batch"

    share: float = hyper(2e-4, "verl's default: of valid tokens, one at least", low=0, high=1)
    beta: float = hyper(1.0, "verl's default", low=0, closed=True)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        order = covariances(batch).flatten().argsort(descending=True, stable=True)
        top = order[: share_of(batch, self.share)]
        chosen = torch.zeros_like(batch.mask.flatten()).index_fill(0, top, True).view_as(batch.mask)
        out = masked_weights(batch, batch.mask, batch.ratio)
        pull = self.beta * batch.log_ratio.sign() * chosen
        out.reason[chosen & (pull != 0)] = int(Reason.TOKEN)
        return pulled(batch, out, pull)


register(
    ClipCov(summary="PPO without a share of high covariance"),
    KLCov(summary="a pull on the share of highest covariance"),
)
