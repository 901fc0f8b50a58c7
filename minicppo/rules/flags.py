"""A comparison's result in the form torch computes fast."""

from collections.abc import Callable

import torch
from jaxtyping import Int8
from torch import Tensor


def flags(operator: Callable[..., Tensor], left: Tensor, right: Tensor | float) -> Int8[Tensor, "*shape"]:
    """`operator(left, right)`, of left's shape, as bytes 0 and 1: to bool, torch's CPU kernels are not vectorised."""
    return operator(left, right, out=torch.empty(left.shape, dtype=torch.int8, device=left.device))
