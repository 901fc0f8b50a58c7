"""What every rule reads: the two policies' log-probs on a batch of responses, padded or packed."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minicppo.rules.packing import Packed
from minicppo.rules.rows import map_rows, take

LOG_RATIO_LIMIT = 20.0  # exp(20) = 5e8: beyond it a ratio is an accident, and overflow would hide it
LOG_PROB_LIMIT = 1e-3  # computed in half precision, the logarithm of 1 comes out a little above 0
_LOG_PROBS = (-math.inf, LOG_PROB_LIMIT, ": log-probs are <= 0; take the .log() of probabilities")
_LIMITS = {  # what valid tokens may hold
    "log_probs": _LOG_PROBS,
    "rollout_log_probs": _LOG_PROBS,
    "old_log_probs": _LOG_PROBS,
    "divergence": (0.0, math.inf, ": a divergence is never negative"),
}


@dataclass(frozen=True)
class TopLogProbs:
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
    top: what Top-K and exact divergences are computed from. divergence: (B, T), D_t >= 0 given by the caller; it then
    stands in for whichever divergence a method names. old_log_probs: (B, T) pi_old's, of the trainer's weights before
    the first update, for methods that correct its mismatch with mu; without them pi_old is mu.
    Raises on bf16/fp16 input, shape mismatch, and NaN or infinite values on valid tokens. Invalid positions may
    hold anything.
    """

    log_probs: Tensor
    rollout_log_probs: Tensor
    advantages: Tensor
    response_mask: Tensor | None = None
    top: TopLogProbs | None = None
    divergence: Tensor | None = None
    old_log_probs: Tensor | None = None

    def __post_init__(self) -> None:
        names = ("log_probs", "rollout_log_probs", "advantages", "response_mask", "divergence", "old_log_probs")
        tensors = checked_inputs(None, **{name: getattr(self, name) for name in names})
        mask = tensors["response_mask"]
        for name, value in tensors.items():
            by_token = value.shape == mask.shape and value is not mask
            object.__setattr__(self, name, zero_invalid(value, mask) if by_token else value.expand(mask.shape))
        if self.top is not None:
            object.__setattr__(self, "top", checked_top(self.top, mask.shape))

    @classmethod
    def from_packed(
        cls, lengths: Tensor, top: TopLogProbs | None = None, *, advantages: Tensor, **tensors: Any
    ) -> "TokenBatch":
        """From 1-D tensors of responses laid end to end; advantages one a response too, see `Packed.advantages`."""
        require_tensors(lengths=lengths, advantages=advantages, **tensors)
        layout = Packed(lengths)
        A = layout.advantages(advantages)
        padded = {name: layout.pad(value) for name, value in tensors.items() if value is not None}
        padded["advantages"] = A[:, 0] if A.shape == (len(lengths), 1) else layout.pad(A)
        padded["response_mask"] = padded.get("response_mask", layout.slots).bool() & layout.slots
        return cls(top=None if top is None else map_rows(layout.pad, top), **padded)

    def rows(self, index: Tensor) -> "TokenBatch":
        """The same batch restricted to some responses."""
        return take(self, index)

    @property
    def mask(self) -> Bool[Tensor, "B T"]:
        """`response_mask` as bool, never None."""
        assert self.response_mask is not None
        return self.response_mask

    @cached_property
    def lengths(self) -> Int[Tensor, " B"]:
        """Valid tokens of each response."""
        return self.mask.view(torch.int8).sum(1)

    @cached_property
    def log_ratio(self) -> Float[Tensor, "B T"]:
        """log pi - log mu, held within +-20; zero on invalid positions."""
        return held(self.raw_log_ratio)

    @cached_property
    def raw_log_ratio(self) -> Float[Tensor, "B T"]:
        """The same, not held: what sums and means over a response are made of."""
        return self.log_probs - self.rollout_log_probs

    @cached_property
    def log_mismatch(self) -> Float[Tensor, "B T"]:
        """log pi_old - log mu, not held; zero on invalid positions, and everywhere if pi_old is mu."""
        return (self.rollout_log_probs if self.old_log_probs is None else self.old_log_probs) - self.rollout_log_probs

    @cached_property
    def since_old(self) -> "TokenBatch":
        """The same batch with pi_old in the place of mu: its ratio is pi / pi_old. Without `top`, which is mu's."""
        if self.old_log_probs is None:
            return self
        return replace(self, rollout_log_probs=self.old_log_probs, old_log_probs=None, top=None)

    @cached_property
    def ratio(self) -> Float[Tensor, "B T"]:
        """rho = pi / mu; one on invalid positions."""
        return self.log_ratio.exp()

    @cached_property
    def away(self) -> Bool[Tensor, "B T"]:
        """A (rho - 1) > 0: this token's update moves pi further from mu."""
        return moves_away(self.log_probs, self.rollout_log_probs, self.advantages)


def held(log_ratio: Tensor) -> Tensor:
    """Within +-20: of one token's ratio, or of a whole response's sum or mean, never of the summands."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def moves_away(log_probs: Tensor, rollout_log_probs: Tensor, advantages: Tensor) -> Bool[Tensor, "B T"]:
    """A (rho - 1) > 0, its sign taken in log space, where it is exact."""
    return (log_probs - rollout_log_probs) * advantages > 0


def require_tensors(**given: Any) -> None:
    """Raise TypeError on what is neither a tensor nor None, and say how to make one of it."""
    for name, value in given.items():
        if isinstance(value, Tensor) or value is None:
            continue
        if isinstance(value, str):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {value!r}; divergences go by name in methods, as in "
                'get_method("cppo-topk") or get_method("cppo", divergence="binary_kl")'
            )
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; pass torch.as_tensor({name})")


def checked_inputs(packed: Packed | None, *, values: bool = True, **given: Tensor | None) -> dict[str, Tensor]:
    """The arguments that are given, without gradient, `response_mask` as bool, advantages (B, 1) where one a response.

    Padded when `packed` is None. What invalid positions hold is harmless, but not zero. values=False: look at shapes
    and types alone. Raises as `TokenBatch` says.
    """
    require_tensors(**given)
    log_probs, advantages = given["log_probs"], given["advantages"]
    assert log_probs is not None
    assert advantages is not None
    shape = log_probs.shape
    if packed is not None:
        packed.check("log_probs", log_probs)
        advantages = packed.advantages(advantages)
    elif len(shape) != 2:
        raise ValueError(f"log_probs must be (B, T), got {tuple(shape)}; packed 1-D input needs lengths=(B,)")
    elif advantages.shape == shape[:1]:
        advantages = advantages[:, None]
    mask = given.pop("response_mask")
    mask = torch.ones(shape, dtype=torch.bool, device=log_probs.device) if mask is None else mask.bool()
    if mask.shape != shape:
        raise ValueError(f"response_mask is {tuple(mask.shape)} but log_probs is {tuple(shape)}")
    column = (shape[0] if packed is None else len(packed.lengths), 1)
    of = {"advantages": None if advantages.shape == column != shape else mask}  # None: one a response
    given["advantages"] = advantages
    checked = {k: check_tokens(k, v.detach(), of.get(k, mask), values) for k, v in given.items() if v is not None}
    return {"response_mask": mask} | checked


def checked_top(top: TopLogProbs, shape: torch.Size) -> TopLogProbs:
    """`TokenBatch.top` of a (B, T) batch without gradient. Raises on half precision or a shape that does not fit."""
    every = (*shape, *top.log_probs.shape[-1:])
    for name, value in vars(top).items():
        wanted = tuple(shape) if name == "token_ids" else every
        if value is not None and tuple(value.shape) != wanted:
            raise ValueError(f"top.{name} is {tuple(value.shape)} where the batch needs {wanted}")
    names = ("log_probs", "rollout_log_probs")
    return replace(top, **{k: check_tokens(f"top.{k}", getattr(top, k).detach(), None, False) for k in names})


def check_tokens(name: str, value: Tensor, mask: Bool[Tensor, "*shape"] | None, values: bool = True) -> Tensor:
    """The value itself, or a copy without what invalid positions may not hold. mask: None where all are valid."""
    if mask is not None and value.shape != mask.shape:
        raise ValueError(f"{name} is {tuple(value.shape)} but the response mask is {tuple(mask.shape)}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} is {value.dtype}: sums over thousands of tokens need float32 or float64; call .float() first"
        )
    lowest, highest, advice = _LIMITS.get(name, (-math.inf, math.inf, ""))
    if value.numel() == 0 or not values:
        return value
    largest = torch.finfo(value.dtype).max
    lowest, highest = max(lowest, -largest), min(highest, largest)
    low, high = torch.stack(torch.aminmax(value)).tolist()  # both NaN where one value is
    if low >= lowest and high <= highest:
        return value
    if mask is not None:
        value = value.masked_fill(~mask, 0.0)
    wrong = ((value >= lowest) & (value <= highest)).logical_not_().nonzero()
    if len(wrong):
        where = tuple(wrong[0].tolist())
        worst = value[where].item()
        raise ValueError(f"{name}{list(where)} is {worst} on a valid token{advice if math.isfinite(worst) else ''}")
    return value


def zero_invalid(value: Tensor, mask: Bool[Tensor, "B T"]) -> Tensor:
    """Zeros on invalid positions, which may hold any number."""
    return value * mask.view(torch.int8).to(value.dtype)
