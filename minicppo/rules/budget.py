"""The prefix budget delta_b: what a response may drift a token, beyond the initial slack delta."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BUDGETS = ("fixed", "dynamic", "off")


def row_quantile(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], q: float) -> Float[Tensor, " B"]:
    """Linearly interpolated quantile of each row's valid entries; zero for an empty row.

    Only the top (1 - q) share is sorted, and there is no limit on the batch's size (`torch.quantile` stops at 16M).
    """
    from_top, fraction = _rank_from_top(mask, q)
    depth = min(int(from_top.max()) + 1, values.shape[1]) if len(values) else 0
    top = values.masked_fill(~mask, -math.inf).topk(depth, dim=1).values
    low = top.gather(1, from_top[:, None]).squeeze(1)
    high = top.gather(1, (from_top - 1).clamp(min=0)[:, None]).squeeze(1)
    value = low + fraction.to(low) * (high - low)
    return value.masked_fill(~mask.any(1), 0.0)


def clamped_quantile(
    values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], q: float, low: float, high: float
) -> Float[Tensor, " B"]:
    """`row_quantile` held within [low, high], low > 0: rows that two counts already place outside are not sorted.

    values: zero on invalid positions.
    """
    from_top, _ = _rank_from_top(mask, q)
    at_low = (values > low).sum(1) < from_top.clamp(min=1)  # the entry above the quantile is within the floor
    at_high = (values >= high).sum(1) > from_top  # the entry below the quantile is beyond the cap
    result = torch.where(at_high, values.new_tensor(high), values.new_tensor(low))
    rows = (~(at_low | at_high)).nonzero().squeeze(1)
    if len(rows):
        result[rows] = row_quantile(values[rows], mask[rows], q).clamp(low, high)
    return result


def _rank_from_top(mask: Tensor, q: float) -> tuple[Tensor, Tensor]:
    """Where the quantile stands: index, in descending order, of the entry below it, and its distance from that entry."""
    last = (mask.sum(1) - 1).clamp(min=0)
    position = q * last.to(torch.float64)
    below = position.floor()
    return last - below.long(), position - below


def sequence_budget(
    divergence: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    delta_b: float,
    *,
    budget: str,
    cap_factor: float,
    quantile: float,
) -> Float[Tensor, " B"] | None:
    """Each response's delta_b.

    "fixed": `delta_b`. "dynamic": the response's own P90 of the unweighted D_t within [delta_b, cap_factor * delta_b],
    paper Eq. 22. "off", or an infinite delta_b: None.
    """
    if budget == "off" or math.isinf(delta_b):
        return None
    if budget == "fixed":
        return torch.full_like(divergence[:, 0], delta_b)
    return clamped_quantile(divergence, mask, quantile, delta_b, cap_factor * delta_b)
