"""What the rules return: reasons, the CPPO mask, and the detached token weight of any method."""

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from jaxtyping import Bool, Float, Int8
from torch import Tensor


class Reason(IntEnum):
    """Why a token was kept or masked."""

    PAD = 0  # not a valid token
    TOWARD = 1  # kept: moves toward mu, or not at all
    INSIDE = 2  # kept: within both limits
    TOKEN = 3  # masked: Z_t > delta alone
    PREFIX = 4  # masked: Z_t > delta + delta_b W_{t-1} - S_{t-1} alone
    BOTH = 5  # masked by both
    SEQUENCE = 6  # the whole response was rejected (TRM, GSPO)


@dataclass(frozen=True)
class CPPOMask:
    """The mask and everything that decided it. (B, T) each, or 1-D for packed input; `delta_b` is (B,) or None.

    reason: codes of `Reason`. weight: w_t. divergence: D_t. slack: delta + delta_b W_{t-1} - S_{t-1}, what the prefix
    leaves, infinite without a budget. delta: the token limit. Derived when read: token_mask M_t, threshold c_t, score
    Z_t.
    Invalid positions hold zeros, but for slack, which carries on.
    """

    reason: Int8[Tensor, "*shape"]
    weight: Float[Tensor, "*shape"]
    divergence: Float[Tensor, "*shape"]
    slack: Float[Tensor, "*shape"]
    delta: float
    delta_b: Float[Tensor, " B"] | None

    @cached_property
    def token_mask(self) -> Bool[Tensor, "*shape"]:
        """M_t: true where the token keeps its gradient."""
        return (self.reason == Reason.TOWARD) | (self.reason == Reason.INSIDE)

    @cached_property
    def threshold(self) -> Float[Tensor, "*shape"]:
        """c_t = min(delta, slack), paper Eq. 10: the limit on Z_t."""
        return self.slack.clamp(max=self.delta).masked_fill_(self.reason == Reason.PAD, 0.0)

    @cached_property
    def score(self) -> Float[Tensor, "*shape"]:
        """Z_t = w_t D_t."""
        return self.weight * self.divergence


@dataclass(frozen=True)
class TokenWeights:
    """What every method returns: the detached token weight g and why.

    weight: (B, T) float32, g_t; zero on masked and invalid tokens. token_mask: (B, T), false where the method gives the
    token no gradient. reason: (B, T) int8 codes of `Reason`. raw_weight: (B, T), the importance weight before the mask,
    clips and caps. threshold, divergence, position_weight: (B, T), and delta_b: (B,), where the method has them.
    sequence_level: whether a response is kept or rejected whole. stats: what else
    the method wants logged as a mean, (B,) over responses or (B, T) over valid tokens.
    """

    weight: Float[Tensor, "B T"]
    token_mask: Bool[Tensor, "B T"]
    reason: Int8[Tensor, "B T"]
    raw_weight: Float[Tensor, "B T"]
    threshold: Float[Tensor, "B T"] | None = None
    divergence: Float[Tensor, "B T"] | None = None
    position_weight: Float[Tensor, "B T"] | None = None
    delta_b: Float[Tensor, " B"] | None = None
    sequence_level: bool = False
    stats: dict[str, Tensor] = field(default_factory=dict)
