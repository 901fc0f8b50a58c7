"""The prefix budget delta_b: what a response may drift a token, beyond the initial slack delta."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

BUDGETS = ("fixed", "dynamic", "off")


def row_quantile(values: Float[Tensor, "B T"], counts: Int[Tensor, " B"], q: float) -> Float[Tensor, " B"]:
    """Linearly interpolated quantile of each row's valid entries; zero for an empty row.

    values: >= 0, and zero on invalid positions, so that the `counts` valid entries are the largest.
    Only the top (1 - q) share is sorted, and there is no limit on the batch's size (`torch.quantile` stops at 16M).
    """
    from_top, fraction = _rank_from_top(counts, q)
    depth = min(int(from_top.max()) + 1, values.shape[1]) if len(values) else 0
    top = values.topk(depth, dim=1).values
    low = top.gather(1, from_top[:, None]).squeeze(1)
    high = top.gather(1, (from_top - 1).clamp(min=0)[:, None]).squeeze(1)
    return low + fraction.to(low) * (high - low)


def clamped_quantile(
    values: Float[Tensor, "B T"], counts: Int[Tensor, " B"], q: float, low: float, high: float
) -> Float[Tensor, " B"]:
    """`row_quantile` held within [low, high], low > 0: rows that two counts already place outside are not sorted."""
    from_top, _ = _rank_from_top(counts, q)
    at_low = (values > low).sum(1) < from_top.clamp(min=1)  # the entry above the quantile is within the floor
    at_high = (values >= high).sum(1) > from_top  # the entry below the quantile is beyond the cap
    result = torch.where(at_high, values.new_tensor(high), values.new_tensor(low))  # bare scalars would be float32
    rows = (~(at_low | at_high)).nonzero().squeeze(1)
    if len(rows):
        result[rows] = row_quantile(values[rows], counts[rows], q).clamp(low, high)
    return result


def _rank_from_top(counts: Tensor, q: float) -> tuple[Tensor, Tensor]:
    """The quantile's place in descending order: index of the entry below it, and its distance from that entry."""
    last = (counts - 1).clamp(min=0)
    position = q * last.to(torch.float64)
    below = position.floor()
    return last - below.long(), position - below


def sequence_budget(
    divergence: Float[Tensor, "B T"],
    counts: Int[Tensor, " B"],
    delta_b: float,
    *,
    budget: str,
    cap_factor: float,
    quantile: float,
) -> Float[Tensor, " B"] | None:
    """Each response's delta_b, from its D_t (zero on invalid positions) and its `counts` of valid tokens.

    "fixed": `delta_b`. "dynamic": the response's own P90 of the unweighted D_t within [delta_b, cap_factor * delta_b],
    paper Eq. 22. "off", or an infinite delta_b: None.
    """
    if budget == "off" or math.isinf(delta_b):
        return None
    if budget == "fixed":
        return divergence.new_full(counts.shape, delta_b)
    return clamped_quantile(divergence, counts, quantile, delta_b, cap_factor * delta_b)
