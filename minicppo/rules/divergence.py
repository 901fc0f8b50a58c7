"""Token divergences D_t between the rollout policy mu and the current policy pi.

Binary <= Top-K <= Top-(K+1) <= exact: a coarser partition of the vocabulary never sees more.
KL is KL(mu || pi) throughout, in nats; TV is in [0, 1].
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minicppo.rules.batch import TokenBatch, TopLogProbs, check_tokens, zero_invalid
from minicppo.text import nearest

DIVERGENCES = ("binary_tv", "binary_kl", "topk_tv", "topk_kl", "exact_tv", "exact_kl")
ESTIMATES = ("k3", "abs_log_ratio")  # what TRM's codes put in the place of a divergence
TOPK_VARIANTS = ("union", "replace_last")
TINY = 1e-12  # probability floor of the "other" cell in KL: 1 - sum can round to zero or below


def needs(kind: str) -> str:
    """What a divergence reads: "log_probs" of the sampled tokens alone, "topk" or "full"."""
    return {"topk": "topk", "exact": "full"}.get(kind.split("_")[0], "log_probs")


def token_divergence(batch: TokenBatch, kind: str, *, topk_variant: str = "union") -> Float[Tensor, "B T"]:
    """D_t of every valid token (zero elsewhere), by name: one of DIVERGENCES or ESTIMATES.

    A batch that brings its own divergence keeps it.
    """
    if batch.divergence is not None:
        return batch.divergence
    if kind == "k3":  # unbiased for KL(mu || pi) under mu; heavy right tail
        return batch.log_ratio.expm1() - batch.log_ratio
    if kind == "abs_log_ratio":
        return batch.log_ratio.abs()
    if kind == "binary_tv":
        return binary_tv(batch.log_probs, batch.rollout_log_probs)
    if kind == "binary_kl":
        return binary_kl(batch.log_probs, batch.rollout_log_probs).to(batch.log_probs.dtype)
    if kind not in DIVERGENCES:
        raise ValueError(f"divergence={kind!r} is unknown{nearest(kind, DIVERGENCES + ESTIMATES)}")
    top, have = batch.top, "none" if batch.top is None else batch.top.kind
    if top is None or have != needs(kind):
        raise ValueError(
            f"this divergence needs {needs(kind)!r} log-probs and the batch carries {have!r}: pass "
            "TokenBatch(top=TopLogProbs(...)), or choose a binary divergence, which needs the sampled tokens' alone"
        )
    if kind == "exact_tv":
        value = 0.5 * (top.log_probs.exp() - top.rollout_log_probs.exp()).abs().sum(-1, dtype=torch.float64)
    elif kind == "exact_kl":
        mu = top.rollout_log_probs.exp()
        terms = mu * (top.rollout_log_probs - top.log_probs)
        value = terms.masked_fill(mu == 0, 0.0).sum(-1, dtype=torch.float64).clamp(min=0)
    else:
        pi, mu = partition(top, batch.log_probs, batch.rollout_log_probs, topk_variant)
        if kind == "topk_tv":
            value = 0.5 * (pi - mu).abs().sum(-1)
        else:
            pi, mu = pi.clamp(min=TINY), mu.clamp(min=TINY)
            value = (mu * (mu.log() - pi.log())).sum(-1).clamp(min=0)
    return zero_invalid(check_tokens(kind, value.to(batch.log_probs.dtype), batch.mask), batch.mask)


def binary_tv(log_probs: Tensor, rollout_log_probs: Tensor) -> Tensor:
    """|pi - mu| of the sampled token: TV on the partition {sampled, rest}."""
    return log_probs.exp().sub_(rollout_log_probs.exp()).abs_()


def binary_kl(log_probs: Tensor, rollout_log_probs: Tensor) -> Tensor:
    """mu log(mu/pi) + (1-mu) log((1-mu)/(1-pi)) of the sampled token, in float64: float32 has no digits near 1."""
    log_pi, log_mu = log_probs.double(), rollout_log_probs.double()
    mu = log_mu.exp()
    rest_mu, rest_pi = (-log_mu.expm1()).clamp(min=TINY), (-log_pi.expm1()).clamp(min=TINY)
    return (mu * (log_mu - log_pi) + rest_mu * (rest_mu.log() - rest_pi.log())).clamp(min=0)


def partition(
    top: TopLogProbs, log_probs: Tensor, rollout_log_probs: Tensor, variant: str = "union"
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T C"]]:
    """Probabilities (pi, mu) of the paper's Top-K cells, float64: mu's top K, the sampled token, "other".

    variant: "union" keeps K + 1 single cells when the sampled token is outside the top K (paper); "replace_last" puts
    it in the place of the K-th (the DPPO authors' own Stable-RL, on vLLM and SGLang, and TRL), which sees less. A
    sampled token inside the top K gets an empty cell.
    """
    if variant not in TOPK_VARIANTS:
        raise ValueError(f"topk_variant={variant!r} is unknown; use 'union' (paper) or 'replace_last'")
    assert top.ids is not None
    outside = (top.ids != top.token_ids[..., None]).all(-1, keepdim=True)
    pairs = (top.log_probs, log_probs), (top.rollout_log_probs, rollout_log_probs)
    pi, mu = (_masses(*pair, outside, variant) for pair in pairs)
    return pi, mu


def _masses(likeliest: Tensor, sampled: Tensor, outside: Tensor, variant: str) -> Tensor:
    single = likeliest.double().exp()
    if variant == "replace_last":
        single = torch.cat([single[..., :-1], single[..., -1:].masked_fill(outside, 0.0)], -1)
    own = sampled.double().exp()[..., None].masked_fill(~outside, 0.0)
    rest = (1 - single.sum(-1, keepdim=True) - own).clamp(min=0)
    return torch.cat([single, own, rest], -1)


def predicted_away(batch: TokenBatch) -> Bool[Tensor, "B T"]:
    """Direction test of Predictive Divergence Masks (arXiv 2607.10848): A times the drift's rate along the step > 0.

    The rate of KL(mu || pi), for a softmax-logit step on log pi(y), is (pi_y - mu_y) + sum over cells of pi (mu - pi),
    tail aggregated.
    """
    top, log_probs, rollout_log_probs = batch.top, batch.log_probs, batch.rollout_log_probs
    if top is None:
        raise ValueError(
            "direction='predicted' needs 'topk' or 'full' log-probs: pass TokenBatch(top=TopLogProbs(...))"
        )
    if top.ids is None:
        pi, mu = top.log_probs.double().exp(), top.rollout_log_probs.double().exp()
    else:
        pi, mu = partition(top, log_probs, rollout_log_probs)
    rate = log_probs.double().exp() - rollout_log_probs.double().exp() + (pi * (mu - pi)).sum(-1)
    return (batch.advantages * rate > 0) & batch.mask
