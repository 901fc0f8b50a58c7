"""Methods that bound a divergence: DPPO by token, TRM by response, CPPO by token, position and prefix."""

import math
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minicppo.rules.batch import TokenBatch
from minicppo.rules.divergence import DIVERGENCES, ESTIMATES, predicted_away, token_divergence
from minicppo.rules.hyper import Hyper, checked
from minicppo.rules.mask import Budget, CapFactor, Delta, DeltaB, Quantile, Schedule, WMin, mask_rows, verdicts
from minicppo.rules.methods.ratio import masked_weights
from minicppo.rules.outputs import CPPOMask, Reason, TokenWeights

DivergenceName = Annotated[str, Hyper("paper: topk_tv with K = 20; released codes: binary_tv", choices=DIVERGENCES)]
RatioCap = Annotated[float, Hyper("the paper has none; DPPO's scaling runs use 5", low=0)]
Direction = Annotated[str, Hyper("paper Eq. 10; 'predicted' is arXiv 2607.10848", choices=("ratio", "predicted"))]
TopKVariant = Annotated[
    str, Hyper("DPPO's paper; 'replace_last' is what other codes do", choices=("union", "replace_last"))
]
GATES = ("hard", "reciprocal", "sigmoid", "budget")
Gate = Annotated[str, Hyper("Algorithm 1 is hard, App. C.1 reciprocal; 'sigmoid' and 'budget' are ours", choices=GATES)]
Length = Annotated[
    str | int, Hyper("paper: own; the authors' verl branch: padded", low=1, closed=True, choices=("own", "padded"))
]
Seed = Annotated[int, Hyper("ours: draws the shuffled schedule", low=0, closed=True)]


def _away(batch: TokenBatch, direction: str) -> Bool[Tensor, "B T"]:
    return batch.away if direction == "ratio" else predicted_away(batch)


def _cap_stats(batch: TokenBatch, ratio_cap: float) -> dict[str, Tensor]:
    if math.isinf(ratio_cap):
        return {}
    return {"ratio/above_cap": batch.ratio > ratio_cap}


def _budget_stats(mask: CPPOMask, delta_b: float, cap_factor: float) -> dict[str, Tensor]:
    """How often the dynamic budget stands at either end."""
    if mask.delta_b is None:  # an infinite floor
        return {}
    floor, cap = mask.delta_b.new_tensor([delta_b, cap_factor * delta_b])
    return {"budget/at_floor": mask.delta_b <= floor, "budget/at_cap": mask.delta_b >= cap}


@checked
def dppo(
    batch: TokenBatch,
    *,
    delta: Annotated[float, Hyper("DPPO: 0.15 in its stability study, 0.2 at scale; KL 0.05", low=0)] = 0.15,
    divergence: DivergenceName = "binary_tv",
    ratio_cap: RatioCap = math.inf,
    direction: Direction = "ratio",
    topk_variant: TopKVariant = "union",
) -> TokenWeights:
    """Mask a token that moves away from mu when its divergence exceeds delta, wherever it stands (arXiv 2602.04879)."""
    D = token_divergence(batch, divergence, topk_variant=topk_variant)
    away = _away(batch, direction)
    keep = ~(away & (torch.tensor(delta, dtype=D.dtype) < D))
    return masked_weights(
        batch, keep, batch.ratio.clamp(max=ratio_cap), away=away, divergence=D, stats=_cap_stats(batch, ratio_cap)
    )


@checked
def trm(
    batch: TokenBatch,
    *,
    delta_max: Annotated[float, Hyper("TRM (arXiv 2512.23075): 0.05 alone, 0.1 with the average", low=0)] = math.inf,
    delta_avg: Annotated[float, Hyper("TRM (arXiv 2512.23075): 0.001 alone, 0.002 with the max", low=0)] = math.inf,
    divergence: Annotated[
        str, Hyper("TRM: KL, or k3 for the average and |log ratio| for the max", choices=(*DIVERGENCES, *ESTIMATES))
    ] = "topk_kl",
    topk_variant: TopKVariant = "union",
) -> TokenWeights:
    """Reject a whole response when its largest or its mean divergence exceeds a limit.

    The direction does not matter.
    """
    D = token_divergence(batch, divergence, topk_variant=topk_variant)
    accepted = D.amax(1) <= delta_max if D.shape[1] else batch.lengths == 0
    accepted &= D.sum(1) <= delta_avg * batch.lengths
    keep = accepted[:, None].expand_as(batch.mask)
    return masked_weights(batch, keep, batch.ratio, code=Reason.SEQUENCE, divergence=D)


@checked
def cppo(
    batch: TokenBatch,
    *,
    delta: Delta = 0.15,
    delta_b: DeltaB = 0.02,
    w_min: WMin = 0.8,
    budget: Budget = "dynamic",
    divergence: DivergenceName = "binary_tv",
    gate: Gate = "hard",
    schedule: Schedule = "linear",
    length: Length = "own",
    cap_factor: CapFactor = 2.0,
    quantile: Quantile = 0.9,
    ratio_cap: RatioCap = math.inf,
    direction: Direction = "ratio",
    topk_variant: TopKVariant = "union",
    seed: Seed = 0,
) -> TokenWeights:
    """Weight the divergence by position and budget its prefix sum (paper Algorithm 1); see `minicppo.cppo_mask`."""
    D = token_divergence(batch, divergence, topk_variant=topk_variant)
    mask = mask_rows(
        batch.mask,
        D,
        _away(batch, direction),
        delta=delta,
        delta_b=delta_b,
        w_min=w_min,
        budget=budget,
        cap_factor=cap_factor,
        quantile=quantile,
        schedule=schedule,
        length=length,
        seed=seed,
    )
    if gate == "budget":
        mask = charge_what_passes(mask)
    passed = gate_values(mask, gate)
    stats = _cap_stats(batch, ratio_cap) | (_budget_stats(mask, delta_b, cap_factor) if budget == "dynamic" else {})
    return TokenWeights(
        weight=(passed * batch.ratio.clamp(max=ratio_cap)).float() * batch.mask,
        token_mask=(passed > 0) & batch.mask,
        reason=mask.reason,
        raw_weight=batch.ratio * batch.mask,
        threshold=mask.threshold,
        divergence=D,
        position_weight=mask.weight,
        delta_b=mask.delta_b,
        stats=stats,
    )


@checked
def decoupled(
    batch: TokenBatch,
    *,
    delta: Delta = 0.15,
    delta_b: DeltaB = 0.02,
    w_min: WMin = 0.8,
    budget_w_min: Annotated[float, Hyper("ours: the pathwise bound is tightest at 1", low=0, high=1)] = 1.0,
    budget: Budget = "dynamic",
    divergence: DivergenceName = "binary_tv",
    length: Length = "own",
    cap_factor: CapFactor = 2.0,
    quantile: Quantile = 0.9,
    ratio_cap: RatioCap = math.inf,
    direction: Direction = "ratio",
    topk_variant: TopKVariant = "union",
) -> TokenWeights:
    """The two tests of `cppo` with a weight each: w_t D_t <= delta, v_t D_t <= delta + sum_{j<t} v_j (delta_b - D_j).

    v falls from 1 to budget_w_min; in `cppo` v = w. `threshold` is the limit that both together put on w_t D_t.
    """
    D = token_divergence(batch, divergence, topk_variant=topk_variant)
    rows = partial(
        mask_rows,
        batch.mask,
        D,
        _away(batch, direction),
        delta=delta,
        delta_b=delta_b,
        cap_factor=cap_factor,
        quantile=quantile,
        schedule="linear",
        length=length,
    )
    cap, prefix = rows(w_min=w_min, budget="off"), rows(w_min=budget_w_min, budget=budget)
    token = cap.reason == Reason.TOKEN
    spent = (prefix.reason == Reason.PREFIX) | (prefix.reason == Reason.BOTH)
    keep = batch.mask & ~token & ~spent
    room = prefix.slack * cap.weight / prefix.weight.masked_fill(~batch.mask, 1.0)
    stats = _cap_stats(batch, ratio_cap) | (_budget_stats(prefix, delta_b, cap_factor) if budget == "dynamic" else {})
    return TokenWeights(
        weight=(batch.ratio.clamp(max=ratio_cap) * keep).float(),
        token_mask=keep,
        reason=cap.reason.masked_fill(spent, int(Reason.PREFIX)).masked_fill(spent & token, int(Reason.BOTH)),
        raw_weight=batch.ratio * batch.mask,
        threshold=torch.where(batch.mask, room.clamp(max=delta), 0.0),
        divergence=D,
        position_weight=cap.weight,
        delta_b=prefix.delta_b,
        stats=stats,
    )


def gate_values(mask: CPPOMask, gate: str) -> Float[Tensor, "B T"]:
    """How much of each token passes, in [0, 1]; tokens that move toward mu pass whole.

    "hard": Algorithm 1. "reciprocal": min(1, 1/x), x = max(Z_t / delta, S_t / (delta + delta_b W_{t-1})), App. C.1.
    "sigmoid" (ours, after SAPO): 4 p (1 - p) / x with p = sigmoid(x - 1) beyond x = 1.
    "budget" (ours): min(1, c_t / Z_t), the mask's c_t being that of `charge_what_passes`.
    """
    if gate == "hard":
        return mask.token_mask.to(mask.score)
    Z = mask.score
    if gate == "budget":
        cut = mask.threshold / Z.clamp(min=torch.finfo(Z.dtype).tiny)
    else:
        # S_t / (delta + delta_b W_{t-1}) with both sides from the slack: S_t = limit - slack + Z_t.
        limit = _prefix_limit(mask)
        spent = limit - mask.slack + Z
        x = torch.maximum(Z / mask.delta, torch.where(torch.isinf(limit), 0.0, spent / limit)).clamp(min=1.0)
        p, q = torch.sigmoid(x - 1), torch.sigmoid(1 - x)  # q, not 1 - p, which is 0 from x = 38 on
        cut = 1 / x if gate == "reciprocal" else 4 * p * q / x
    # The hard decision is exact, toward tokens included; the quotient may round across the limit.
    return torch.where(mask.token_mask, 1.0, cut)


def _prefix_limit(mask: CPPOMask) -> Float[Tensor, "B T"]:
    """delta + delta_b W_{t-1}, infinite without a budget."""
    if mask.delta_b is None:
        return torch.full_like(mask.score, math.inf)
    before = torch.zeros_like(mask.weight)
    torch.cumsum(mask.weight[:, :-1], dim=1, out=before[:, 1:])
    return mask.delta + mask.delta_b[:, None] * before


def charge_what_passes(mask: CPPOMask) -> CPPOMask:
    """The mask whose prefix is charged g_t Z_t, g_t = min(1, c_t / Z_t), rather than Z_t (ours): no c_t is below 0.

    What the gate lets pass of every token then stays within delta + delta_b W_{t-1}. The charged sum obeys
    s_t = min(s_{t-1} + min(Z_t, delta), delta + delta_b W_{t-1}), a scan that is one prefix sum and one prefix minimum.
    Tokens toward mu are charged like the others; that their weight is 1 all the same is the mask's clause.
    """
    limit = _prefix_limit(mask)
    total = mask.score.clamp(max=mask.delta).cumsum(1)
    spent = total + (limit - total).cummin(1).values.clamp(max=0.0)
    slack = limit.clone()
    slack[:, 1:] -= spent[:, :-1]
    slack.clamp_(min=0.0)
    free = (mask.reason == Reason.PAD) | (mask.reason == Reason.TOWARD)
    reason = torch.where(free, mask.reason, verdicts(mask.score, slack, mask.delta))
    threshold = slack.clamp_(max=mask.delta).masked_fill_(mask.reason == Reason.PAD, 0.0)
    return replace(mask, threshold=threshold, reason=reason)
