"""Triton kernels: what a CUDA GPU runs in place of chains of small operations. Each has its twin in plain PyTorch.

`MINICPPO_KERNELS=0` in the environment leaves all work to the twins.
"""

import os
import shutil
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def usable(tensor: Tensor) -> bool:
    """Is it on a GPU that kernels can be compiled for here?"""
    return tensor.is_cuda and _compiles() and _known(tensor.device.index)


def compiler() -> str | None:
    """The C compiler; None without one, or where all work is left to the twins."""
    names = () if os.environ.get("MINICPPO_KERNELS") == "0" else (os.environ.get("CC", "cc"), "gcc", "clang")
    return next(filter(None, map(shutil.which, names)), None)


@cache
def _compiles() -> bool:
    """Triton is installed, and so is the C compiler that it builds the start of a kernel with."""
    return find_spec("triton") is not None and compiler() is not None


@cache
def _known(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= (7, 0)
