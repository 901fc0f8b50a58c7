"""The dynamic prefix budget: a quantile of each response's own divergences, within limits."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

BUDGETS = ("fixed", "dynamic", "off")


def clamped_quantile(
    values: Float[Tensor, "B T"], counts: Int[Tensor, " B"], q: float, low: float, high: float
) -> Float[Tensor, " B"]:
    """Linearly interpolated quantile of each row's valid entries, held within [low, high], low > 0.

    values: >= 0, and zero on invalid positions, so that the `counts` valid entries are the largest.
    Two counts place most rows outside the limits; only the rest is sorted. (`torch.quantile` stops at 16M entries.)
    """
    last = (counts - 1).clamp(min=0)
    position = q * last.to(torch.float64)
    rank, fraction = last - position.long(), position.frac()  # of the entry below, in descending order; how far above
    flags = torch.empty_like(values)  # floats: their comparisons and sums are vectorised; exact up to 2^24 tokens
    above_low = torch.gt(values, low, out=flags).sum(1)
    above_high = torch.ge(values, high, out=flags).sum(1)
    capped = above_high > rank  # the entry below the quantile is beyond the cap
    result = torch.where(capped, values.new_tensor(high), values.new_tensor(low))  # bare scalars would be float32
    rows = (~capped & (above_low >= rank.clamp(min=1))).nonzero()[:, 0]  # the entry above is beyond the floor
    if len(rows):
        ordered = torch.from_numpy(np.sort(values[rows].cpu().numpy())).to(values.device)  # 8 times faster than topk
        last_place = values.shape[1] - 1
        place = last_place - rank[rows, None]
        below, above = ordered.gather(1, place), ordered.gather(1, (place + 1).clamp(max=last_place))
        found = below + fraction[rows, None].to(values) * (above - below)
        result[rows] = found.squeeze(1).clamp(low, high)
    return result
