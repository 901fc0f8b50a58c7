"""Group-relative advantages, and one loss for every method: gradient agg(g A grad log pi), value -agg(g A)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from minicppo.rules.packing import Packed
from minicppo.text import nearest

LOSS_AGG_MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


@dataclass(frozen=True)
class GroupAdvantages:
    """What `group_advantages` makes of the rewards of N responses."""

    advantages: Float[Tensor, " N"]  # zero in dropped groups
    kept: Bool[Tensor, " N"]  # false in dropped groups, where all rewards are equal
    dropped_groups: int


def group_advantages(
    rewards: Shaped[Tensor, " N"], group_size: int, *, normalize_std: bool = False, ddof: int = 1
) -> GroupAdvantages:
    """A = r - mean of its group; with `normalize_std` also over (std + 1e-6), as GRPO's authors do.

    rewards: (N,), the responses to one prompt next to each other, `group_size` each. The default, no division, is what
    the released CPPO and DPPO recipes use (and Dr.GRPO). Groups without reward variance teach nothing: they are marked
    to be dropped. Integers and truth values are taken as float32. Raises ValueError when group_size < 2, does not
    divide N, or a reward is not finite.
    """
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: a group of fewer than 2 responses has no relative advantage")
    if rewards.ndim != 1 or len(rewards) % group_size:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} do not split into groups of {group_size}")
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("rewards hold NaN or infinity; a failed check should score 0")
    groups = (rewards if rewards.is_floating_point() else rewards.float()).reshape(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    alive = (groups != groups[:, :1]).any(1, keepdim=True)
    if normalize_std:
        centred = centred / (groups.std(1, correction=ddof, keepdim=True) + 1e-6)
    return GroupAdvantages((centred * alive).flatten(), alive.expand_as(groups).flatten(), int((~alive).sum()))


def aggregate(
    values: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    loss_agg_mode: str,
    *,
    horizon: int | None = None,
    total_tokens: int | None = None,
    total_sequences: int | None = None,
    count_empty: bool = True,
) -> Float[Tensor, ""]:
    """Mean of per-token values over a batch of responses.

    The denominator comes from `response_mask` alone, so a token a method masks still counts.
    token-mean: over valid tokens. seq-mean-token-mean: over responses of each one's token mean. seq-mean-token-sum:
    over responses of each one's sum. seq-mean-token-sum-norm: the same over a constant `horizon` (Dr.GRPO).
    total_tokens, total_sequences: counts of the whole optimiser step, when this batch is one micro-batch of it.
    count_empty: whether a response without a valid token is one of the responses averaged over (TRL, SkyRL, liger) or
    left out (verl, OpenRLHF, NeMo-RL); `total_sequences` says so itself.
    Raises ValueError on an unknown mode, or when seq-mean-token-sum-norm has no horizon.
    """
    if loss_agg_mode not in LOSS_AGG_MODES:
        raise ValueError(f"loss_agg_mode={loss_agg_mode!r} is unknown{nearest(loss_agg_mode, LOSS_AGG_MODES)}")
    values = values.masked_fill(~response_mask, 0.0)
    counts = response_mask.sum(1)
    if loss_agg_mode == "token-mean":
        return values.sum() / max(int(counts.sum()) if total_tokens is None else total_tokens, 1)
    rows = len(values) if count_empty else int((counts > 0).sum())
    sequences = max(rows if total_sequences is None else total_sequences, 1)
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
    count_empty: bool = True,
    lengths: Tensor | None = None,
) -> Float[Tensor, ""]:
    """-agg(sg(g) A exp(logp - sg(logp))): differentiable in `log_probs` alone.

    log_probs, weight, response_mask: (B, T); advantages: (B,) or (B, T). Packed: 1-D with `lengths` (B,), advantages
    as in `Packed.advantages`.
    """
    if lengths is not None:
        packed = Packed(lengths)
        log_probs, weight, response_mask = map(packed.pad, (log_probs, weight, response_mask))
        advantages = packed.advantages(advantages)
        advantages = advantages if advantages.ndim == 2 else packed.pad(advantages)
    elif advantages.ndim == 1:
        advantages = advantages[:, None]
    response_mask = response_mask.bool()
    # Padding may hold anything, also -inf: replaced before the subtraction, whose gradient would be NaN.
    log_probs = log_probs.masked_fill(~response_mask, 0.0)
    unit = torch.exp(log_probs - log_probs.detach())  # one, with the gradient of log pi
    values = -weight.detach() * advantages.detach() * unit
    counts = {"horizon": horizon, "total_tokens": total_tokens, "total_sequences": total_sequences}
    return aggregate(values, response_mask, loss_agg_mode, **counts, count_empty=count_empty)
