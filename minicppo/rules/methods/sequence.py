"""Weights that a whole response decides: GMPO, off-policy sequence masking, VESPO and TOPR."""

from dataclasses import dataclass, replace

import torch

from minicppo.rules.batch import held
from minicppo.rules.method import Method, Reason, TokenBatch, TokenWeights, hyper, masked_weights, register
from minicppo.rules.methods.grpo import PPO, response_mean


@dataclass(frozen=True)
class GMPO(Method):
    """The geometric mean of ratios that are each clipped on the side away from mu; none for the clipped tokens.

    A token with A = 0 adds nothing to the mean, as in verl.
    """

    family = "gmpo"
    formula = "M s, s = prod clip(rho)^(1/T)"
    source = "arXiv 2507.20673"

    clip_low: float = hyper(0.4, "GMPO: of log rho, so e^-0.4", low=0)
    clip_high: float = hyper(0.4, "GMPO: of log rho, so e^0.4", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        x, A = batch.raw_log_ratio, batch.advantages
        clipped = torch.where(A > 0, x.clamp(max=self.clip_high), x.clamp(min=-self.clip_low)).masked_fill(A == 0, 0)
        s = response_mean(batch, clipped).exp().expand_as(x)
        return masked_weights(batch, (clipped == x) | (A == 0), s, raw=batch.ratio)


@dataclass(frozen=True)
class OPSM(PPO):
    """PPO's clip, and no response with a negative mean advantage whose mean of log(mu / pi) exceeds delta."""

    family = "opsm"
    formula = "M_PPO M(y) rho"
    source = "DeepSeek-V3.2, Eq. 9; arXiv 2512.02556"
    level = "sequence"

    delta: float = hyper(1e-4, "slime's default; the paper names none", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        far = response_mean(batch, -batch.raw_log_ratio) > self.delta
        rejected = far & ((batch.advantages * batch.mask).sum(1, keepdim=True) < 0)
        out = masked_weights(batch, self.within(batch.ratio, batch.advantages) & ~rejected, batch.ratio)
        reason = out.reason.masked_fill(rejected & batch.mask, int(Reason.SEQUENCE))
        return replace(out, reason=reason, sequence_level=True)


@dataclass(frozen=True)
class VESPO(Method):
    """A smooth bump over W, the product of the response's ratios: 1 at W = 1, falling to 0 on both sides."""

    family = "vespo"
    formula = "W^k e^(lam (1 - W)), W = prod rho"
    source = "arXiv 2602.10693"

    k_pos: float = hyper(2.0, "TRL's default, where A >= 0", low=0)
    lam_pos: float = hyper(3.0, "TRL's default, where A >= 0", low=0)
    k_neg: float = hyper(3.0, "TRL's default, where A < 0", low=0)
    lam_neg: float = hyper(2.0, "TRL's default, where A < 0", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        log_W, positive = held(batch.raw_log_ratio.sum(1, keepdim=True)), batch.advantages >= 0
        k, lam = torch.where(positive, self.k_pos, self.k_neg), torch.where(positive, self.lam_pos, self.lam_neg)
        return masked_weights(batch, batch.mask, (k * log_W - lam * log_W.expm1()).exp(), raw=log_W.exp())


@dataclass(frozen=True)
class TOPR(Method):
    """No importance weight where A > 0, a truncated one elsewhere: of each token as in ROLL, or of the response."""

    family = "topr"
    formula = "1 where A > 0, else min(rho, 1)"
    source = "arXiv 2503.14286"

    per: str = hyper(
        "token", "ROLL; the paper's is 'sequence', the product of the ratios", choices=("token", "sequence")
    )

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        x = batch.raw_log_ratio
        ratio = held(x.sum(1, keepdim=True) if self.per == "sequence" else x).exp().expand_as(x)
        weight = torch.where(batch.advantages > 0, 1.0, ratio.clamp(max=1))
        return masked_weights(batch, batch.mask, weight, raw=ratio)


register(
    GMPO(summary="geometric mean of clipped ratios"),
    OPSM(summary="no bad response far from the policy"),
    VESPO(summary="a bump over the response's ratio"),
    TOPR(summary="truncated where A < 0, plain where A > 0"),
    TOPR(name="topr-sequence", summary="the same by the response, as in the paper", per="sequence"),
)
