"""The prefix budget delta_b: what a response may drift a token, beyond the initial slack delta."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BUDGETS = ("fixed", "dynamic", "off")
SEARCH = 8  # steps; nine rows in ten take fewer


def clamped_quantile(
    values: Float[Tensor, "B T"], counts: Int[Tensor, " B"], q: float, low: float, high: float
) -> Float[Tensor, " B"]:
    """Linearly interpolated quantile of each row's valid entries, held within [low, high], low > 0.

    values: >= 0, and zero on invalid positions, so that the `counts` valid entries are the largest.
    Two counts place most rows outside the limits, a search by counting finds most others, and only the rest is sorted.
    The limits are on the result alone: every way leads to the same number.
    """
    from_top, fraction = _rank_from_top(counts, q)
    flags = torch.empty_like(values)  # floats: their comparisons and sums are vectorised; exact up to 2^24 tokens
    above_low = torch.gt(values, low, out=flags).sum(1)
    above_high = torch.ge(values, high, out=flags).sum(1)
    at_low = above_low < from_top.clamp(min=1)  # the entry above the quantile is within the floor
    at_high = above_high > from_top  # the entry below the quantile is beyond the cap
    result = torch.where(at_high, values.new_tensor(high), values.new_tensor(low))  # bare scalars would be float32
    rows = (~(at_low | at_high)).nonzero().squeeze(1)
    if len(rows):
        start = [torch.full_like(fraction, at, dtype=values.dtype) for at in (low, high)]
        bracket = (x[rows, None] for x in (start[0], above_low, start[1], above_high))
        found, exact = searched_quantile(values[rows], from_top[rows], fraction[rows], *bracket)
        ties = rows[~exact]
        result[rows] = found
        if len(ties):
            result[ties] = row_quantile(values[ties], counts[ties], q)
        result.clamp_(low, high)
    return result


def searched_quantile(
    values: Float[Tensor, "B T"],
    from_top: Int[Tensor, " B"],
    fraction: Float[Tensor, " B"],
    low: Float[Tensor, "B 1"],
    above_low: Float[Tensor, "B 1"],
    high: Float[Tensor, "B 1"],
    above_high: Float[Tensor, "B 1"],
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """`row_quantile` between low and high without a sort, and the rows for which it was found.

    Looks for a number that exactly `from_top` entries exceed, by linear interpolation between counts: the entries on
    its two sides are the quantile's neighbours. Ties have no such number, crowded rows may need more steps.
    above_low, above_high: how many entries exceed either limit.
    """
    k, flags = from_top[:, None], torch.empty_like(values)
    for _ in range(SEARCH):
        part = (above_low - k) / (above_low - above_high).clamp_(min=1)
        x = torch.lerp(low, high, part.clamp_(0.01, 0.99))
        above = torch.gt(values, x, out=flags).sum(1, keepdim=True)
        up, down = above >= k, above <= k
        low, above_low = torch.where(up, x, low), torch.where(up, above, above_low)
        high, above_high = torch.where(down, x, high), torch.where(down, above, above_high)
    torch.gt(values, low, out=flags)
    below = torch.addcmul(values, values, flags, value=-1).amax(1)
    beyond = flags.reciprocal_().sub_(1).add_(values).amin(1)  # 1 / 0 puts the others at infinity
    exact = ((low == high) & (k > 0)).squeeze(1)
    return below + fraction.to(below) * (beyond - below), exact


def row_quantile(values: Float[Tensor, "B T"], counts: Int[Tensor, " B"], q: float) -> Float[Tensor, " B"]:
    """The quantile by sorting the top (1 - q) share; `torch.quantile` stops at 16M entries."""
    from_top, fraction = _rank_from_top(counts, q)
    top = values.topk(int(from_top.max()) + 1, dim=1).values
    low = top.gather(1, from_top[:, None]).squeeze(1)
    high = top.gather(1, (from_top - 1).clamp(min=0)[:, None]).squeeze(1)
    return low + fraction.to(low) * (high - low)


def _rank_from_top(counts: Tensor, q: float) -> tuple[Tensor, Tensor]:
    """The quantile's place in descending order: index of the entry below it, and its distance from that entry."""
    last = (counts - 1).clamp(min=0)
    position = q * last.to(torch.float64)
    below = position.floor()
    return last - below.long(), position - below


def response_budget(
    divergence: Float[Tensor, "B T"],
    counts: Int[Tensor, " B"],
    budget: str,
    delta_b: float,
    cap: float,
    quantile: float,
) -> Float[Tensor, " B"] | None:
    """Each response's delta_b, from its D_t (zero on invalid positions) and its `counts` of valid tokens.

    "fixed": `delta_b`. "dynamic": the response's own P90 of the unweighted D_t within [delta_b, cap], paper Eq. 22.
    "off", or an infinite delta_b: None.
    """
    if budget == "off" or math.isinf(delta_b):
        return None
    if budget == "fixed":
        return divergence.new_full(counts.shape, delta_b)
    return clamped_quantile(divergence, counts, quantile, delta_b, cap)
