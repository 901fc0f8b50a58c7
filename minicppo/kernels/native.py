"""What one thread of a CPU runs as C, for Llama and Qwen models in float32: compiled at its first use, then kept.

Without a C compiler, or with `MINICPPO_KERNELS=0`, PyTorch's operations do the same work.
"""

import ctypes
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minicppo.files import atomically, user_cache
from minicppo.kernels import compiler

SOURCES = [Path(__file__).with_name(name) for name in ("decode.c", "train.c", "lanes.h")]
LANES = 16  # floats that are computed at a time: heads and layers must be as wide, or multiples of it
FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared"]
CAPABILITY = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mfma"]}  # by the name that torch has for it
SIZE, POINTER, FLOAT = ctypes.c_long, ctypes.c_void_p, ctypes.c_float
ARGUMENTS = {  # of train.c, each a number, a pointer or a float
    "multiply": "nnn pnn pnn p",
    "norm": "nn pp f p",
    "norm_backward": "nn pp f ppp",
    "gate": "nn pp",
    "gate_backward": "nn ppp",
    "attention": "nnp ppp f ppp f ppp",
    "attention_backward": "nnp ppp f ppp f ppp pppp",
}


class Layer(ctypes.Structure):
    """Pointers to a layer's weights, as decode.c names them."""

    names = ("norm", "qkv", "qkv_bias", "q_norm", "k_norm", "o", "mlp_norm", "gate_up", "down")
    _fields_ = [(name, ctypes.c_void_p) for name in names]


class Job(ctypes.Structure):
    """All that decode.c reads and writes, as it describes it."""

    pointers = "layer embedding norm head bias cos sin prompts first lengths uniforms ends ids taken top_ids log_probs"
    pointers += " top cache scratch state"
    sizes = "layers hidden inner vocabulary padded prompt_count prompt_width samples every rows most endings k slots"
    sizes += " width next live"
    _fields_ = [
        *((name, ctypes.c_void_p) for name in pointers.split()),
        *((name, ctypes.c_int64) for name in sizes.split()),
        *((name, ctypes.c_float) for name in ("eps", "scaling", "temperature")),
    ]


@cache
def library(heads: int, groups: int, channels: int) -> Any:
    """The functions of C for `channels` a head, `groups` queries to each of `heads` keys; None if impossible."""
    program = compiler()
    if program is None:
        return None
    flags = FLAGS + CAPABILITY.get(torch.backends.cpu.get_cpu_capability(), [])
    flags += [f"-DKV={heads}", f"-DG={groups}", f"-DD={channels}"]
    text = b"".join(path.read_bytes() for path in SOURCES)
    key = hashlib.sha256(text + " ".join([os.uname().machine, *flags]).encode()).hexdigest()
    try:  # in the user's own cache: what a working directory holds may be anybody's, and this is run
        path = user_cache() / f"native-{key[:16]}.so"
        if not path.is_file():
            sources = [str(path) for path in SOURCES if path.suffix == ".c"]
            with atomically(path, shared=True) as scratch:
                subprocess.run([program, *flags, *sources, "-o", str(scratch), "-lm"], check=True, capture_output=True)
        found = ctypes.CDLL(str(path.resolve()))
    except (OSError, RuntimeError, subprocess.CalledProcessError):
        return None
    found.decode.argtypes, found.decode.restype = [ctypes.POINTER(Job), ctypes.c_long], ctypes.c_long
    for name, arguments in ARGUMENTS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = (
            [{"n": SIZE, "p": POINTER, "f": FLOAT}[kind] for kind in arguments if kind != " "],
            None,
        )
    return found


def panels(*weights: Tensor) -> Tensor:
    """Of weights (.., K), joined, 16 columns of the transpose at a time; zeros fill the last."""
    joined = torch.cat(weights) if len(weights) > 1 else weights[0]
    if missing := -len(joined) % LANES:
        joined = F.pad(joined, (0, 0, 0, missing))
    return joined.view(-1, LANES, joined.shape[1]).transpose(1, 2).contiguous()


def blocked(keys: Tensor) -> Tensor:
    """Keys (..., width, D), of each 16 columns the channels one after the other, in the same shape."""
    return keys.unflatten(-2, (-1, LANES)).transpose(-1, -2).contiguous().view(keys.shape)


def call(function: Any, *arguments: Any) -> None:
    """A function of train.c, given contiguous tensors where it wants pointers."""
    function(*(at(a) if isinstance(a, Tensor) else a for a in arguments))


def at(tensor: Tensor | None) -> int | None:
    """Where C finds it; it must be contiguous."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
