"""CPPO's token mask (paper Eq. 8-11, Algorithm 1) as a prefix sum over a batch."""

import math
from dataclasses import fields
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minicppo.rules.batch import TokenBatch, clean_tokens, pad_packed, unpad
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
    if divergence is not None and divergence.shape != log_probs.shape:
        raise ValueError(f"divergence is {tuple(divergence.shape)} but log_probs is {tuple(log_probs.shape)}")
    if lengths is None:
        batch = TokenBatch(log_probs, rollout_log_probs, advantages, response_mask)
    else:
        batch = TokenBatch.from_packed(
            lengths,
            log_probs=log_probs,
            rollout_log_probs=rollout_log_probs,
            advantages=advantages,
            response_mask=response_mask,
        )
    if divergence is None:
        D = token_divergence(batch, "binary_tv")
    else:
        D = clean_tokens("divergence", divergence if lengths is None else pad_packed(divergence, lengths), batch.mask)
        if bool((D < 0).any()):
            raise ValueError(f"divergence has the value {D.min().item()} < 0; a divergence is never negative")
    result = mask_batch(
        batch,
        D,
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
    padded = {f.name: getattr(result, f.name) for f in fields(result)}
    return CPPOMask(**{k: v if k == "delta_b" else unpad(v, lengths) for k, v in padded.items()})


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
    """Algorithm 1 on a validated batch, D_t and direction given: one exclusive prefix sum of w (delta_b - D) in float64."""
    valid = batch.mask
    w = position_weights(valid, w_min, schedule=schedule, length=length, seed=seed)
    # Limits in the precision of D, so that D = delta is a tie in float32 as well as in float64.
    limit = torch.tensor(delta, dtype=divergence.dtype).double().item()
    allowed = sequence_budget(
        divergence, valid, delta_b, budget=budget, cap_factor=cap_factor, quantile=quantile
    )
    Z = w * divergence
    if allowed is None:
        slack = torch.full_like(w, math.inf)
    else:
        credit = torch.zeros_like(w)  # sum_{j<t} w_j (delta_b - D_j): shifted, not `S_t - Z_t`, which cancels
        torch.cumsum((w * allowed[:, None] - Z)[:, :-1], dim=1, out=credit[:, 1:])
        slack = credit.add_(limit)
    over_token, over_prefix = limit < Z, slack < Z
    fails = over_token.to(torch.int8) + 2 * over_prefix.to(torch.int8)
    reason = torch.where(away, int(Reason.INSIDE) + fails, int(Reason.TOWARD)) * valid
    return CPPOMask(
        token_mask=(reason == Reason.TOWARD) | (reason == Reason.INSIDE),
        threshold=torch.where(valid, slack.clamp(max=limit), 0.0),
        reason=reason.to(torch.int8),
        weight=w,
        divergence=divergence,
        score=Z,
        slack=torch.where(valid, slack, 0.0),
        delta_b=allowed,
    )
