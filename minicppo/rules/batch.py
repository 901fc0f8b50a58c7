"""What every rule reads: the two policies' log-probs on a batch of responses, padded or packed."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # exp(20) = 5e8: beyond it a ratio is an accident, and overflow would hide it


def pad_packed(values: Tensor, lengths: Int[Tensor, " B"]) -> Tensor:
    """(N, ...) responses laid end to end -> (B, T_max, ...), zeros behind each row's length."""
    slots = _slots(lengths)
    if values.shape[0] != int(slots.sum()):
        raise ValueError(f"packed input has {values.shape[0]} tokens but lengths sum to {int(slots.sum())}")
    padded = values.new_zeros(*slots.shape, *values.shape[1:])
    padded[slots] = values
    return padded


def unpad(values: Tensor, lengths: Int[Tensor, " B"]) -> Tensor:
    """(B, T_max, ...) -> (N, ...): the inverse of `pad_packed`."""
    return values[_slots(lengths)]


def _slots(lengths: Int[Tensor, " B"]) -> Bool[Tensor, "B T"]:
    if lengths.ndim != 1 or bool((lengths < 0).any()):
        raise ValueError(f"lengths must be a 1-D tensor of counts >= 0, got {lengths.tolist()}")
    width = int(lengths.max()) if len(lengths) else 0
    return torch.arange(width, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True)
class Cells:
    """Both policies' log-probs on more of the vocabulary than the sampled token.

    log_probs, rollout_log_probs: (B, T, K), pi and mu. token_ids: (B, T), the sampled tokens.
    ids: (B, T, K), the K likeliest tokens of mu, likeliest first; None when K is the whole vocabulary.
    Packed, for `TokenBatch.from_packed`: (N, K) and (N,).
    """

    log_probs: Float[Tensor, "*shape K"]
    rollout_log_probs: Float[Tensor, "*shape K"]
    token_ids: Int[Tensor, "*shape"]
    ids: Int[Tensor, "*shape K"] | None = None

    @property
    def kind(self) -> str:
        return "full" if self.ids is None else "topk"


@dataclass(frozen=True)
class TokenBatch:
    """One optimiser step's view of a batch of responses. Padded layout; `from_packed` makes it from packed input.

    log_probs: (B, T) pi's log-prob of each sampled token, natural log, temperature applied.
    rollout_log_probs: (B, T) mu's, of the policy that sampled. advantages: (B,) or (B, T).
    response_mask: (B, T), true on valid tokens (EOS included; prompt, padding and tool tokens excluded); default all.
    cells: what Top-K and exact divergences are computed from. divergence: (B, T), D_t >= 0 given by the caller; it then
    stands in for whichever divergence a method names.
    Raises on bf16/fp16 input, shape mismatch, and NaN or infinite values on valid tokens. Invalid positions may
    hold anything.
    """

    log_probs: Tensor
    rollout_log_probs: Tensor
    advantages: Tensor
    response_mask: Tensor | None = None
    cells: Cells | None = None
    divergence: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.log_probs.shape
        if len(shape) != 2:
            raise ValueError(f"log_probs must be (B, T), got {tuple(shape)}; packed 1-D input needs lengths=(B,)")
        mask = torch.ones_like(self.log_probs, dtype=torch.bool) if self.response_mask is None else self.response_mask
        if mask.shape != shape:
            raise ValueError(f"response_mask is {tuple(mask.shape)} but log_probs is {tuple(shape)}")
        mask = mask.bool()
        advantages = self.advantages.detach()
        if advantages.shape == shape[:1]:
            sequence = torch.ones_like(advantages, dtype=torch.bool)[:, None]
            advantages = clean_tokens("advantages", advantages[:, None], sequence).expand(shape)
        else:
            advantages = clean_tokens("advantages", advantages, mask)
        for name, value in (
            ("response_mask", mask),
            ("advantages", advantages),
            ("log_probs", clean_tokens("log_probs", self.log_probs.detach(), mask)),
            ("rollout_log_probs", clean_tokens("rollout_log_probs", self.rollout_log_probs.detach(), mask)),
        ):
            object.__setattr__(self, name, value)
        if self.divergence is not None:
            given = clean_tokens("divergence", self.divergence.detach(), mask)
            if bool((given < 0).any()):
                raise ValueError(f"divergence has the value {given.min().item()} < 0; a divergence is never negative")
            object.__setattr__(self, "divergence", given)

    @classmethod
    def from_packed(cls, lengths: Tensor, cells: Cells | None = None, **tensors: Any) -> "TokenBatch":
        """From 1-D tensors of responses laid end to end; `advantages` may be (B,) already."""
        padded = {
            name: value if name == "advantages" and value.shape == lengths.shape else pad_packed(value, lengths)
            for name, value in tensors.items()
            if value is not None
        }
        slots = _slots(lengths)
        padded["response_mask"] = padded["response_mask"].bool() & slots if "response_mask" in padded else slots
        if cells is not None:
            fields = {k: pad_packed(v, lengths) for k, v in vars(cells).items() if v is not None}
            cells = Cells(**fields)
        return cls(cells=cells, **padded)

    def rows(self, index: Tensor) -> "TokenBatch":
        """The same batch restricted to some responses."""
        cells = self.cells
        if cells is not None:
            ids = None if cells.ids is None else cells.ids[index]
            cells = Cells(cells.log_probs[index], cells.rollout_log_probs[index], cells.token_ids[index], ids)
        names = ("log_probs", "rollout_log_probs", "advantages", "response_mask", "divergence")
        tensors: dict[str, Any] = {k: getattr(self, k)[index] for k in names if getattr(self, k) is not None}
        return replace(self, cells=cells, **tensors)

    @property
    def mask(self) -> Bool[Tensor, "B T"]:
        """`response_mask` as bool, never None."""
        assert self.response_mask is not None
        return self.response_mask

    @cached_property
    def lengths(self) -> Int[Tensor, " B"]:
        """Valid tokens of each response."""
        return self.mask.sum(1)

    @cached_property
    def log_ratio(self) -> Float[Tensor, "B T"]:
        """log pi - log mu, held within +-20; zero on invalid positions."""
        return (self.log_probs - self.rollout_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)

    @cached_property
    def ratio(self) -> Float[Tensor, "B T"]:
        """rho = pi / mu; one on invalid positions."""
        return self.log_ratio.exp()

    @cached_property
    def away(self) -> Bool[Tensor, "B T"]:
        """A (rho - 1) > 0: this token's update moves pi further from mu.

        The sign is taken in log space, where it is exact.
        """
        return (self.log_probs - self.rollout_log_probs).mul_(self.advantages) > 0


def clean_tokens(name: str, value: Tensor, mask: Bool[Tensor, "B T"]) -> Tensor:
    """Zeros on invalid positions.

    Raises on a wrong shape, on half precision, and on NaN or infinity where it matters.
    """
    if value.shape != mask.shape:
        raise ValueError(f"{name} is {tuple(value.shape)} but the response mask is {tuple(mask.shape)}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} is {value.dtype}: sums over thousands of tokens need float32 or float64; call .float() first"
        )
    value = value.masked_fill(~mask, 0.0)
    if not math.isfinite(value.sum().item()) and not bool(torch.isfinite(value).all()):  # one pass when all is well
        row, column = (~torch.isfinite(value)).nonzero()[0].tolist()
        raise ValueError(f"{name}[{row}, {column}] is {value[row, column].item()} on a valid token")
    return value
