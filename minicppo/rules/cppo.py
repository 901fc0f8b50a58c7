"""CPPO's token mask (paper Eq. 8-11, Algorithm 1) as a prefix sum over a batch."""

import math
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from minicppo.rules.batch import TokenBatch, unpad
from minicppo.rules.budget import BUDGETS, sequence_budget
from minicppo.rules.divergence import token_divergence
from minicppo.rules.hyper import Hyper, checked
from minicppo.rules.result import CPPOMask, Reason
from minicppo.rules.weights import SCHEDULES, position_weights

Delta = Annotated[float, Hyper("paper Table 3 (0.20 for 30B-A3B)", low=0)]
DeltaB = Annotated[float, Hyper("paper Table 3: floor of the dynamic budget, or the fixed value", low=0)]
WMin = Annotated[float, Hyper("paper Table 3", low=0, high=1)]
Budget = Annotated[str, Hyper("paper Eq. 22; fixed for the post-trained 1.7B", choices=BUDGETS)]
CapFactor = Annotated[float, Hyper("paper Eq. 22: 2 (the authors' verl branch: 5)", low=1, closed=True)]
Quantile = Annotated[float, Hyper("paper Eq. 22", low=0, high=1)]
Schedule = Annotated[str, Hyper("paper Eq. 9; 'constant' and 'shuffled' are its ablations", choices=SCHEDULES)]


@checked
def cppo_mask(
    log_probs: Tensor,
    rollout_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor | None = None,
    *,
    delta: Delta = 0.15,
    delta_b: DeltaB = 0.02,
    w_min: WMin = 0.8,
    budget: Budget = "dynamic",
    divergence: Tensor | None = None,
    lengths: Tensor | None = None,
    cap_factor: CapFactor = 2.0,
    quantile: Quantile = 0.9,
    schedule: Schedule = "linear",
    length: str | int = "own",
) -> CPPOMask:
    """The CPPO mask of a batch of responses: keep where A (rho - 1) <= 0 or w_t D_t <= c_t.

    log_probs, rollout_log_probs: (B, T), pi's and mu's log-probs of the sampled tokens, float32 or float64.
    advantages: (B,) or (B, T). response_mask: (B, T), true on valid tokens; default all.
    Packed input: 1-D tensors of responses laid end to end and `lengths` (B,); the fields of the result are then 1-D.
    delta: token limit. delta_b: prefix budget a token (the floor when `budget="dynamic"`; ignored when "off").
    w_min: weight of the last token. divergence: D_t of the batch's shape; None means Binary TV, |pi - mu|.
    length: "own", "padded" or a horizon, see `position_weights`.
    Nothing here is differentiable. Source: paper Algorithm 1; Eq. 22 for the dynamic budget.
    Raises ValueError or TypeError on NaN, shape mismatch, half precision, or a hyper-parameter outside its limits.

    >>> log = lambda *p: torch.tensor([p]).log()
    >>> out = cppo_mask(log(.6, .48, .4, .91, .5), log(.5, .4, .5, .9, .3), torch.ones(1), budget="fixed")
    >>> out.token_mask.int().tolist(), out.reason.tolist()
    ([[1, 0, 1, 0, 0]], [[2, 4, 1, 4, 5]])
    """
    tensors: dict[str, Any] = {
        "log_probs": log_probs,
        "rollout_log_probs": rollout_log_probs,
        "advantages": advantages,
        "response_mask": response_mask,
        "divergence": divergence,
    }
    batch = TokenBatch(**tensors) if lengths is None else TokenBatch.from_packed(lengths, **tensors)
    result = mask_batch(
        batch,
        token_divergence(batch, "binary_tv"),
        batch.away,
        delta=delta,
        delta_b=delta_b,
        w_min=w_min,
        budget=budget,
        cap_factor=cap_factor,
        quantile=quantile,
        schedule=schedule,
        length=length,
    )
    if lengths is None:
        return result
    per_token = ("reason", "weight", "divergence", "slack")
    packed: dict[str, Any] = {name: unpad(getattr(result, name), lengths) for name in per_token}
    return replace(result, **packed)


def mask_batch(
    batch: TokenBatch,
    divergence: Float[Tensor, "B T"],
    away: Bool[Tensor, "B T"],
    *,
    delta: float,
    delta_b: float,
    w_min: float,
    budget: str,
    cap_factor: float,
    quantile: float,
    schedule: str,
    length: str | int,
    seed: int = 0,
) -> CPPOMask:
    """Algorithm 1 on a validated batch, D_t and direction given: one exclusive prefix sum of w (delta_b - D).

    In the precision of D: float32 is enough because the terms are centred (a plain S_t would grow with t).
    """
    valid = batch.mask
    w = position_weights(
        valid, w_min, schedule=schedule, length=length, seed=seed, dtype=divergence.dtype, counts=batch.lengths
    )
    allowed = sequence_budget(
        divergence, batch.lengths, delta_b, budget=budget, cap_factor=cap_factor, quantile=quantile
    )
    Z = w * divergence
    slack = torch.empty_like(w)
    if allowed is None:
        slack.fill_(math.inf)
    else:  # the sum is shifted by one token: `S_t - Z_t` would cancel
        slack[:, :1] = delta
        torch.mul(w[:, :-1], allowed[:, None], out=slack[:, 1:]).sub_(Z[:, :-1])
        slack.cumsum_(1)
    reason = verdicts(Z, slack, delta).masked_fill_(~away, int(Reason.TOWARD)).mul_(valid)
    return CPPOMask(reason, weight=w, divergence=divergence, slack=slack, delta=delta, delta_b=allowed)


def verdicts(score: Float[Tensor, "B T"], slack: Float[Tensor, "B T"], delta: float) -> Int8[Tensor, "B T"]:
    """Codes of `Reason` for tokens that move away: INSIDE, + 1 is TOKEN, + 2 is PREFIX, + 3 is BOTH."""
    return (slack < score).to(torch.int8).mul_(2).add_(delta < score).add_(int(Reason.INSIDE))
