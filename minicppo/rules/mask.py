"""CPPO's token mask (paper Eq. 8-11, Algorithm 1) as a prefix sum over a batch.

On a GPU one kernel does the same, see `on_gpu`; the operations here serve everywhere, and are its twin.
"""

import sys
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from minicppo.rules.batch import checked_inputs, moves_away, require_tensors, zero_invalid
from minicppo.rules.budget import BUDGETS, sequence_budget
from minicppo.rules.divergence import binary_tv
from minicppo.rules.flags import flags
from minicppo.rules.hyper import Hyper, checked
from minicppo.rules.on_gpu import fits, mask_in_one_kernel
from minicppo.rules.outputs import CPPOMask, Reason, prefix_slack
from minicppo.rules.packing import Packed, Padded
from minicppo.rules.position_weights import SCHEDULES, position_weights

BLOCK = 1 << 18  # tokens worked on at a time on the CPU: intermediates stay in the cache, and their memory is reused

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
    inputs: dict[str, Any] = {
        "log_probs": log_probs,
        "rollout_log_probs": rollout_log_probs,
        "advantages": advantages,
        "response_mask": response_mask,
        "divergence": divergence,
    }
    require_tensors(lengths=lengths, **inputs)
    packed = None if lengths is None else Packed(lengths)
    width = log_probs.shape[-1:].numel() if packed is None else packed.width
    rule: dict[str, Any] = {
        "delta": delta,
        "delta_b": delta_b,
        "w_min": w_min,
        "budget": budget,
        "cap_factor": cap_factor,
        "quantile": quantile,
        "schedule": schedule,
        "length": width if length == "padded" else length,
    }
    on_gpu = divergence is None and fits((log_probs, rollout_log_probs, advantages), width, schedule, length)
    given = checked_inputs(packed, values=not on_gpu, **inputs)
    like, A = given["log_probs"], given["advantages"]
    layout = packed or Padded(*like.shape)
    if on_gpu:
        mask, broken = mask_in_one_kernel(
            like, given["rollout_log_probs"], A, given["response_mask"], layout, **rule
        )
        if broken.cpu().any():
            checked_inputs(packed, **inputs)  # raises, and says what is wrong where
        return mask
    out: dict[str, Any] = {name: torch.empty_like(like) for name in ("divergence", "threshold")}
    out["reason"] = torch.empty_like(like, dtype=torch.int8)
    budgets = []
    for rows, tokens, block in layout.blocks(BLOCK if like.device.type == "cpu" else sys.maxsize):
        pi, mu, valid = (block.pad(given[k][tokens]) for k in ("log_probs", "rollout_log_probs", "response_mask"))
        D = block.pad(given["divergence"][tokens]) if "divergence" in given else binary_tv(pi, mu)
        away = moves_away(pi, mu, A[rows] if A.ndim == 2 else block.pad(A[tokens]))
        mask = mask_rows(valid, zero_invalid(D, valid), away, **rule)
        for name, values in out.items():
            values[tokens] = block.unpad(getattr(mask, name))
        if mask.delta_b is not None:
            budgets.append(mask.delta_b)
    return replace(mask, **out, delta_b=torch.cat(budgets) if budgets else None, layout=layout)


def mask_rows(
    valid: Bool[Tensor, "B T"],
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
    """Algorithm 1, D_t (zero on invalid positions) and the direction given."""
    layout = Padded(*valid.shape)
    if fits((divergence,), layout.width, schedule, length):
        return mask_in_one_kernel(
            *(divergence, away, None, valid, layout),
            delta=delta,
            delta_b=delta_b,
            w_min=w_min,
            budget=budget,
            cap_factor=cap_factor,
            quantile=quantile,
            schedule=schedule,
            length=length,
            seed=seed,
        )[0]
    counts = valid.view(torch.int8).sum(1)
    weights = partial(position_weights, w_min=w_min, schedule=schedule, length=length, seed=seed)
    w = weights(valid, dtype=divergence.dtype, counts=counts)
    allowed = sequence_budget(divergence, counts, delta_b, budget=budget, cap_factor=cap_factor, quantile=quantile)
    slack = prefix_slack(w, divergence, delta, allowed)
    verdict = verdicts(divergence * w, slack, delta)
    reason = verdict.sub_(1).mul_(away.view(torch.int8)).add_(int(Reason.TOWARD)).mul_(valid.view(torch.int8))
    return CPPOMask(
        reason,
        divergence,
        threshold=zero_invalid(slack.clamp_(max=delta), valid),
        delta=delta,
        delta_b=allowed,
        weights=weights,
        layout=layout,
    )


def verdicts(score: Float[Tensor, "B T"], slack: Float[Tensor, "B T"], delta: float) -> Int8[Tensor, "B T"]:
    """Codes of `Reason` for tokens that move away: INSIDE, + 1 is TOKEN, + 2 is PREFIX, + 3 is BOTH."""
    return flags(torch.lt, slack, score).mul_(2).add_(flags(torch.gt, score, delta)).add_(int(Reason.INSIDE))
