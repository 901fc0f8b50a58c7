"""What the rules return: the CPPO mask, and the detached token weight of any method."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from minicppo.rules.mask_rule import MaskRule
from minicppo.rules.packing import Packed, Padded
from minicppo.verdicts import Reason


@dataclass(frozen=True)
class CPPOMask:
    """The mask and everything that decided it. (B, T) each, or 1-D for packed input; `delta_b` is (B,) or None.

    reason: codes of `Reason`. divergence: D_t. threshold: c_t = min(delta, slack), paper Eq. 10, the limit on Z_t.
    rule: what the mask was made with. layout: of the fields. The rest is derived when read. Invalid positions hold
    zeros, but for slack, which carries on.
    """

    reason: Int8[Tensor, "*shape"]
    divergence: Float[Tensor, "*shape"]
    threshold: Float[Tensor, "*shape"]
    delta_b: Float[Tensor, " B"] | None
    rule: MaskRule
    layout: Padded | Packed

    @property
    def delta(self) -> float:
        """The token limit."""
        return self.rule.delta

    @cached_property
    def token_mask(self) -> Bool[Tensor, "*shape"]:
        """M_t: true where the token keeps its gradient."""
        return (self.reason == Reason.TOWARD) | (self.reason == Reason.INSIDE)

    @cached_property
    def position_weight(self) -> Float[Tensor, "*shape"]:
        """w_t, paper Eq. 9."""
        valid = self.layout.pad(self.reason) != Reason.PAD
        return self.layout.unpad(self.rule.weights(valid, self.divergence.dtype))

    @cached_property
    def weighted_divergence(self) -> Float[Tensor, "*shape"]:
        """Z_t = w_t D_t."""
        return self.position_weight * self.divergence

    @cached_property
    def slack(self) -> Float[Tensor, "*shape"]:
        """delta + delta_b W_{t-1} - S_{t-1}, what the prefix leaves; infinite without a budget."""
        w, D = map(self.layout.pad, (self.position_weight, self.divergence))
        return self.layout.unpad(prefix_slack(w, D, self.delta, self.delta_b))


def prefix_slack(
    weight: Float[Tensor, "B T"], divergence: Float[Tensor, "B T"], delta: float, delta_b: Float[Tensor, " B"] | None
) -> Float[Tensor, "B T"]:
    """delta + sum over j < t of w_j (delta_b - D_j), infinite when delta_b is None.

    In the precision of D: float32 is enough because the terms are centred (a plain S_t would grow with t).
    """
    slack = torch.empty_like(weight)
    if delta_b is None:
        return slack.fill_(math.inf)
    slack[:, :1] = delta  # the sum is shifted by one token: `S_t - Z_t` would cancel
    torch.sub(delta_b[:, None], divergence[:, :-1], out=slack[:, 1:]).mul_(weight[:, :-1])
    return slack.cumsum_(1)


@dataclass(frozen=True)
class TokenWeights:
    """What every method returns: the detached token weight g and why. From `threshold` on, what the method has."""

    weight: Float[Tensor, "B T"]  # g_t, float32; zero on masked and invalid tokens
    token_mask: Bool[Tensor, "B T"]  # false where the method gives the token no gradient
    reason: Int8[Tensor, "B T"]  # codes of `Reason`
    raw_weight: Float[Tensor, "B T"]  # the importance weight before the mask, clips and caps
    threshold: Float[Tensor, "B T"] | None = None
    divergence: Float[Tensor, "B T"] | None = None
    position_weight: Float[Tensor, "B T"] | None = None
    delta_b: Float[Tensor, " B"] | None = None
    sequence_level: bool = False  # is a response kept or rejected whole?
    stats: dict[str, Tensor] = field(default_factory=dict)  # to log as means: (B,), or (B, T) over valid tokens
