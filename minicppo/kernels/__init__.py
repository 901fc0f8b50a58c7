"""Triton kernels: what a CUDA GPU runs in place of chains of small operations. Each has its twin in plain PyTorch."""

from functools import cache
from importlib.util import find_spec

from torch import Tensor


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


def usable(tensor: Tensor) -> bool:
    """Is it on a GPU that Triton is here to write kernels for?"""
    return tensor.is_cuda and _triton()
