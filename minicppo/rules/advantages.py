"""Group-relative advantages."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class GroupAdvantages:
    """advantages: (N,), zero in dropped groups. kept: (N,), false where all rewards of a group are equal.

    dropped_groups: how many those are.
    """

    advantages: Float[Tensor, " N"]
    kept: Bool[Tensor, " N"]
    dropped_groups: int


def group_advantages(
    rewards: Float[Tensor, " N"], group_size: int, *, normalize_std: bool = False, ddof: int = 1
) -> GroupAdvantages:
    """A = r - mean of its group; with `normalize_std` also over (std + 1e-6), as GRPO's authors do.

    rewards: (N,), the responses to one prompt next to each other, `group_size` each. The default, no division, is what
    the released CPPO and DPPO recipes use (and Dr.GRPO). Groups without reward variance teach nothing: they are marked
    to be dropped.
    Raises ValueError when group_size < 2, does not divide N, or a reward is not finite.
    """
    if group_size < 2:
        raise ValueError(f"group_size={group_size}: a group of fewer than 2 responses has no relative advantage")
    if rewards.ndim != 1 or len(rewards) % group_size:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} do not split into groups of {group_size}")
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("rewards hold NaN or infinity; a failed check should score 0")
    groups = rewards.reshape(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    alive = (groups != groups[:, :1]).any(1, keepdim=True)
    if normalize_std:
        centred = centred / (groups.std(1, correction=ddof, keepdim=True) + 1e-6)
    return GroupAdvantages(
        advantages=(centred * alive).reshape(-1),
        kept=alive.expand_as(groups).reshape(-1),
        dropped_groups=int((~alive).sum()),
    )
