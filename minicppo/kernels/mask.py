"""The CPPO mask of a batch in one kernel: a response is read once, and everything about it written once.

The twin of `minicppo.rules.mask.mask_rows`. One program holds one response; the prefix budget's quantile is found by
bisecting the bit patterns of floats, which have the order of the numbers, so it is the exact entry without a sort.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _neighbours(D, rank, low, high, above_low, above_high):
    """The entries of ranks `rank` and `rank` - 1 (one entry where rank is 0) in descending order of numbers >= 0.

    Some of them lie in (low, high]: more than `rank` exceed low, at most `rank` high. A number that exactly `rank`
    exceed parts the two. Interpolating between counts finds one in a few steps; ties have none, and every other step
    halves the bit patterns of floats, which have the order of the numbers, until only the entry itself is left.
    """
    halve = rank < 0
    a, b = low.to(tl.int32, bitcast=True), high.to(tl.int32, bitcast=True)
    while (above_high < rank) & (b - a > 1):
        part = (above_low - rank).to(tl.float32) / (above_low - above_high).to(tl.float32)
        x = (low + tl.minimum(tl.maximum(part, 0.01), 0.99) * (high - low)).to(tl.int32, bitcast=True)
        x = tl.minimum(tl.maximum(tl.where(halve, a + (b - a) // 2, x), a + 1), b - 1)
        value = x.to(tl.float32, bitcast=True)
        above = tl.sum((D > value).to(tl.int32))
        more = above > rank
        a, low, above_low = tl.where(more, x, a), tl.where(more, value, low), tl.where(more, above, above_low)
        b, high, above_high = tl.where(more, b, x), tl.where(more, high, value), tl.where(more, above_high, above)
        halve = halve == 0
    over = D > high
    under = tl.max(tl.where(over, 0.0, D))
    beyond = tl.min(tl.where(over, D, float("inf")))
    return under, tl.where((above_high == rank) & (rank > 0), beyond, under)


@triton.jit(do_not_specialize=["width", "horizon"])
def _mask(
    first,  # (B, T) or (N,): log-probs of pi, or D_t
    second,  # log-probs of mu, or whether the token moves away
    advantages,  # (B,), or of the tokens' shape; not read where D_t is given
    valid,
    starts,  # (B,) where each response starts, its length in `lengths`; None: rows of `width`
    lengths,
    reason,
    kept,
    divergence,
    threshold,
    budget,  # (B,)
    broken,  # (B,) whether a valid token's numbers are none
    width,
    delta,
    delta_b,
    cap,
    w_drop,
    horizon,
    highest_log_prob,
    GIVEN: tl.constexpr,
    BY_TOKEN: tl.constexpr,
    BUDGET: tl.constexpr,
    QUANTILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    if starts is None:
        start, n = row.to(tl.int64) * width, width
    else:
        start, n = tl.load(starts + row), tl.load(lengths + row).to(tl.int32)
    t = tl.arange(0, BLOCK)
    inside = t < n
    v = (tl.load(valid + start + t, mask=inside, other=0) != 0).to(tl.int32)
    a, b = tl.load(first + start + t, mask=inside, other=0), tl.load(second + start + t, mask=inside, other=0)
    if GIVEN:
        D, away, wrong = a, b != 0, 0 * v
    else:
        A = tl.load(advantages + (start + t if BY_TOKEN else row + 0 * t), mask=inside, other=0)
        D, away = tl.abs(tl.exp(a) - tl.exp(b)), (a - b) * A > 0
        fine = (a <= highest_log_prob) & (a > -float("inf")) & (b <= highest_log_prob) & (b > -float("inf"))
        wrong = (~(fine & (tl.abs(A) < float("inf")))).to(tl.int32) * v
    D = tl.where(v > 0, D, 0.0)
    tl.store(divergence + start + t, D, mask=inside)

    flags = (D > delta_b).to(tl.int64) << 48 | (D >= cap).to(tl.int64) << 32 | wrong.to(tl.int64) << 16 | v.to(tl.int64)
    sums = tl.sum(flags)  # four sums in one, of at most 2^15 each
    count, wrong = (sums & 0xFFFF).to(tl.int32), (sums >> 16 & 0xFFFF).to(tl.int32)
    capped, above = (sums >> 32 & 0xFFFF).to(tl.int32), (sums >> 48 & 0xFFFF).to(tl.int32)
    tl.store(broken + row, (wrong > 0).to(tl.int8))
    limit = delta_b
    if BUDGET == "dynamic":  # Eq. 22: most rows are outside the limits, which two counts tell
        last = tl.maximum(count - 1, 0)
        position = last.to(tl.float64) * QUANTILE
        below = position.to(tl.int32)
        rank = last - below
        if capped > rank:
            limit = cap
        elif above >= tl.maximum(rank, 1):
            floor, ceiling = tl.full((), delta_b, tl.float32), tl.full((), cap, tl.float32)
            below_cap = (ceiling.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)  # as many exceed it
            parted = above == rank
            under, over = _neighbours(
                *(D, rank, floor, tl.where(parted, floor, below_cap)),
                *(above, tl.where(parted, above, capped)),
            )
            limit = under + (position - below).to(tl.float32) * (over - under)
            limit = tl.minimum(tl.maximum(limit, delta_b), cap)
    if BUDGET != "off":
        tl.store(budget + row, limit)

    total = count if horizon == 0 else horizon
    fall = w_drop / tl.maximum(total - 1, 1).to(tl.float32)
    seen = t + 1  # of the valid tokens, up to and including this one
    if tl.max(tl.where(v > 0, t, -1)) >= count:  # holes or padding on the left
        seen = tl.cumsum(v, 0)
    w = v.to(tl.float32) * (1.0 - (seen - 1).to(tl.float32) * fall)
    score = w * D
    if BUDGET == "off":
        slack = tl.full((BLOCK,), float("inf"), tl.float32)
    elif GIVEN:  # the sum ends at the token before; a large D taken off again would cancel all that it was added to
        tl.debug_barrier()  # what is read here other threads have written
        earlier = (t > 0) & inside
        D_before = tl.load(divergence + start + t - 1, mask=earlier, other=0)
        v_before = (tl.load(valid + start + t - 1, mask=earlier, other=0) != 0).to(tl.float32)
        w_before = v_before * (1.0 - (seen - v - 1).to(tl.float32) * fall)
        slack = delta + tl.cumsum(w_before * (limit - D_before), 0)
    else:  # at most 1: nothing to cancel
        left = w * (limit - D)
        slack = delta + (tl.cumsum(left, 0) - left)
    code = tl.where(away, 2 + (score > delta).to(tl.int32) + 2 * (slack < score).to(tl.int32), 1) * v
    tl.store(reason + start + t, code.to(tl.int8), mask=inside)
    tl.store(kept + start + t, ((code == 1) | (code == 2)).to(tl.int8), mask=inside)
    tl.store(threshold + start + t, tl.where(v > 0, tl.minimum(slack, delta), 0.0), mask=inside)


def mask(
    first: Tensor,
    second: Tensor,
    advantages: Tensor | None,
    valid: Tensor,
    lengths: Tensor | None,
    width: int,
    rule: Any,
    highest_log_prob: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Reason, token mask, D_t, c_t, and of each response delta_b (None without a budget) and whether an input is wrong.

    Args:
        first, second: float32 log-probs of pi and mu with `advantages`, one a response or of their shape; or, without,
            D_t >= 0 and whether each token moves away. (B, T), or (N,) with `lengths` (B,), laid end to end.
        valid: bool, of the same shape. width: tokens of the longest response.
        rule: a `minicppo.rules.mask_rule.MaskRule`.
    """
    rows = len(first) if lengths is None else len(lengths)
    starts = None if lengths is None else lengths.cumsum(0) - lengths
    budget = "off" if math.isinf(rule.delta_b) else rule.budget
    horizon = {"own": 0, "padded": width}.get(rule.length, rule.length)  # the weights' T; 0: each response's own
    reason, kept = torch.empty_like(valid, dtype=torch.int8), torch.empty_like(valid)
    divergence = torch.empty_like(valid, dtype=torch.float32)
    threshold = torch.empty_like(divergence)
    limits = None if budget == "off" else divergence.new_empty(rows)
    broken = torch.empty(rows, dtype=torch.int8, device=valid.device)
    block = max(triton.next_power_of_2(width), 128)
    inputs = (x if x is None else x.contiguous() for x in (first, second, advantages, valid, starts, lengths))
    with torch.cuda.device_of(valid):
        _mask[(rows,)](
            *inputs,
            *(reason, kept.view(torch.int8), divergence, threshold, limits, broken),
            *(width, rule.delta, rule.delta_b, rule.cap, 0.0 if rule.schedule == "constant" else 1 - rule.w_min),
            *(horizon, highest_log_prob),
            GIVEN=advantages is None,
            BY_TOKEN=advantages is not None and advantages.shape == first.shape,
            BUDGET=budget,
            QUANTILE=rule.quantile,
            BLOCK=block,
            num_warps=min(max(block // 256, 4), 16),
        )
    return reason, kept, divergence, threshold, limits, broken
