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
    counts = mask.sum(1)
    position = q * (counts - 1).clamp(min=0).to(torch.float64)
    below = position.floor()
    from_top = (counts - 1 - below.long()).clamp(min=0)
    depth = int(from_top.max()) + 1 if len(counts) else 1
    top = values.masked_fill(~mask, -math.inf).topk(min(depth, values.shape[1]), dim=1).values
    low = top.gather(1, from_top[:, None]).squeeze(1)
    high = top.gather(1, (from_top - 1).clamp(min=0)[:, None]).squeeze(1)
    value = low + (position - below).to(low) * (high - low)
    return value.masked_fill(counts == 0, 0.0)


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
    return row_quantile(divergence, mask, quantile).clamp(delta_b, cap_factor * delta_b)
