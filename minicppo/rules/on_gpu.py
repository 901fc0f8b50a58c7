"""From a batch on a GPU to the kernel that masks it, and back: `minicppo.kernels.mask` for `minicppo.rules.mask`."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

import minicppo.kernels as kernels
from minicppo.rules.batch import LOG_PROB_LIMIT
from minicppo.rules.outputs import CPPOMask
from minicppo.rules.packing import Packed, Padded
from minicppo.rules.position_weights import position_weights

LONGEST = 32_768  # tokens of one response that a program holds


def fits(numbers: tuple[Tensor, ...], width: int, schedule: str, length: str | int) -> bool:
    """Does the kernel know this case? It has no float64, no permuted weights, and checks no horizon."""
    return (
        all(kernels.usable(x) and x.dtype == torch.float32 and x.numel() > 0 for x in numbers)
        and 0 < width <= LONGEST
        and schedule in ("linear", "constant")
        and (length in ("own", "padded") if isinstance(length, str) else length >= width)
    )


def mask_in_one_kernel(
    first: Tensor,
    second: Tensor,
    advantages: Tensor | None,
    valid: Tensor,
    layout: Padded | Packed,
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
) -> tuple[CPPOMask, Tensor]:
    """The mask, of the layout's own shape, and (B,) whether a valid token's log-prob or advantage is no fit number.

    first, second: log-probs of pi and mu, with advantages (B, 1) or of their shape; without: D_t, and who moves away.
    """
    from minicppo.kernels.mask import mask  # Triton: not everywhere

    starts = lengths = None
    if isinstance(layout, Packed):
        lengths = layout.lengths.to(first.device)
        starts = lengths.cumsum(0) - lengths
    length = layout.width if length == "padded" else length
    reason, kept, divergence, threshold, limits, broken = mask(
        *(first, second, advantages, valid, starts, lengths, layout.width),
        delta=delta,
        delta_b=delta_b,
        w_drop=0.0 if schedule == "constant" else 1 - w_min,
        budget="off" if math.isinf(delta_b) else budget,
        cap=cap_factor * delta_b,
        quantile=quantile,
        horizon=length if isinstance(length, int) else 0,
        highest_log_prob=LOG_PROB_LIMIT,
    )
    weights: Any = partial(position_weights, w_min=w_min, schedule=schedule, length=length, seed=seed)
    found = CPPOMask(reason, divergence, threshold, delta, limits, weights, layout)
    vars(found)["token_mask"] = kept  # the cached property's place
    return found, broken
