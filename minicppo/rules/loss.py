"""One loss for every method: the gradient is agg(g A grad log pi), the value -agg(g A)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minicppo.rules.packing import Packed
from minicppo.text import nearest

LOSS_AGG_MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


def aggregate(
    values: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    loss_agg_mode: str,
    *,
    horizon: int | None = None,
    total_tokens: int | None = None,
    total_sequences: int | None = None,
) -> Float[Tensor, ""]:
    """Mean of per-token values over a batch of responses.

    The denominator comes from `response_mask` alone, so a token a method masks still counts.
    token-mean: over valid tokens. seq-mean-token-mean: over responses of each one's token mean. seq-mean-token-sum:
    over responses of each one's sum. seq-mean-token-sum-norm: the same over a constant `horizon` (Dr.GRPO).
    total_tokens, total_sequences: counts of the whole optimiser step, when this batch is one micro-batch of it.
    Raises ValueError on an unknown mode, or when seq-mean-token-sum-norm has no horizon.
    """
    if loss_agg_mode not in LOSS_AGG_MODES:
        raise ValueError(f"loss_agg_mode={loss_agg_mode!r} is unknown{nearest(loss_agg_mode, LOSS_AGG_MODES)}")
    values = values.masked_fill(~response_mask, 0.0)
    counts = response_mask.sum(1)
    if loss_agg_mode == "token-mean":
        return values.sum() / max(int(counts.sum()) if total_tokens is None else total_tokens, 1)
    sequences = max(len(values) if total_sequences is None else total_sequences, 1)
    if loss_agg_mode == "seq-mean-token-mean":
        return (values.sum(1) / counts.clamp(min=1)).sum() / sequences
    if loss_agg_mode == "seq-mean-token-sum":
        return values.sum() / sequences
    if horizon is None or horizon <= 0:
        raise ValueError(f"seq-mean-token-sum-norm needs a horizon > 0 in tokens (max_new_tokens), got {horizon}")
    return values.sum() / (sequences * horizon)


def policy_loss(
    log_probs: Tensor,
    weight: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    loss_agg_mode: str = "seq-mean-token-sum-norm",
    horizon: int | None = None,
    total_tokens: int | None = None,
    total_sequences: int | None = None,
    lengths: Tensor | None = None,
) -> Float[Tensor, ""]:
    """-agg(sg(g) A exp(logp - sg(logp))): differentiable in `log_probs` alone.

    log_probs, weight, response_mask: (B, T); advantages: (B,) or (B, T). Packed: 1-D with `lengths` (B,).
    """
    if lengths is not None:
        pad = Packed(lengths).pad
        log_probs, weight, response_mask = pad(log_probs), pad(weight), pad(response_mask)
        if advantages.shape != lengths.shape:
            advantages = pad(advantages)
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    response_mask = response_mask.bool()
    # Padding may hold anything, also -inf: replaced before the subtraction, whose gradient would be NaN.
    log_probs = log_probs.masked_fill(~response_mask, 0.0)
    unit = torch.exp(log_probs - log_probs.detach())  # one, with the gradient of log pi
    return aggregate(
        -weight.detach() * advantages.detach() * unit,
        response_mask,
        loss_agg_mode,
        horizon=horizon,
        total_tokens=total_tokens,
        total_sequences=total_sequences,
    )
