"""What a CPU computes between the matrix products of a step of decoding, as C: compiled at its first use, then kept.

Without a C compiler, or with `MINICPPO_KERNELS=0`, it is left to PyTorch's operations.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minicppo.files import atomically

SOURCE = Path(__file__).with_name("decode.c")
LANES = 16  # floats that are computed at a time: heads and layers must be as wide, or multiples of it
FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared"]
CAPABILITY = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mfma"]}  # by the name that torch has for it
POINTER, SIZE, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
ARGUMENTS = {
    "norm": [SIZE, SIZE, POINTER, POINTER, FLOAT, POINTER],
    "gate": [SIZE, SIZE, POINTER, POINTER, SIZE, POINTER],
    "draw": [SIZE] * 2 + [POINTER] * 2 + [FLOAT, POINTER, SIZE] + [POINTER] * 2 + [SIZE, POINTER, SIZE] + [POINTER] * 5,
    "attend": [SIZE] * 2 + [POINTER] * 3 + [SIZE] + [POINTER] * 2 + [FLOAT] + [POINTER] * 2 + [FLOAT] + [POINTER] * 6,
}


@cache
def library(heads: int, groups: int, channels: int) -> Any:
    """The functions of decode.c for `channels` a head, `groups` queries to each of `heads` keys; None if impossible."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if os.environ.get("MINICPPO_KERNELS") == "0" or compiler is None:
        return None
    flags = FLAGS + CAPABILITY.get(torch.backends.cpu.get_cpu_capability(), [])
    flags += [f"-DKV={heads}", f"-DG={groups}", f"-DD={channels}"]
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join([os.uname().machine, *flags]).encode()).hexdigest()
    try:  # in the user's own cache: what a working directory holds may be anybody's, and this is run
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = folder / "minicppo" / f"decode-{key[:16]}.so"
        if not path.is_file():
            with atomically(path, shared=True) as scratch:
                subprocess.run(
                    [compiler, *flags, str(SOURCE), "-o", str(scratch), "-lm"], check=True, capture_output=True
                )
        found = ctypes.CDLL(str(path.resolve()))
    except (OSError, RuntimeError, subprocess.CalledProcessError):
        return None
    for name, arguments in ARGUMENTS.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    return found


class Native:
    """The twins of the norms, the gates and the attention of a Llama or Qwen model in float32.

    `cache` (2, B, KV, width, D) holds keys and values as `DirectDecoder` does, width a multiple of `LANES`; but of
    each `LANES` columns of keys the channels come one after the other, as `blocked` has them.
    """

    def __init__(self, functions: Any):
        self.functions = functions

    @staticmethod
    def blocked(keys: Tensor) -> Tensor:
        """Keys (..., width, D) in the order of the cache, in the same shape."""
        return keys.unflatten(-2, (-1, LANES)).transpose(-1, -2).contiguous().view(keys.shape)

    def norm(self, module: Any, x: Tensor) -> Tensor:
        """(B, width) root-mean-square norm of x."""
        out, (rows, width) = torch.empty_like(x), x.shape
        self.functions.norm(rows, width, *_at(x, module.weight), module.variance_epsilon, *_at(out))
        return out

    def gate(self, gates: Tensor, ups: Tensor) -> Tensor:
        """(B, width) silu(gates) * ups, of two parts of one tensor."""
        rows, width = gates.shape
        out = gates.new_empty(rows, width)
        self.functions.gate(rows, width, *_at(gates, ups), gates.stride(0), *_at(out))
        return out

    def attend(
        self,
        module: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor,
        starts: Tensor,
        column: Tensor,
    ) -> Tensor:
        """As `minicppo.kernels.attention.attend`, of projections that are parts of one tensor."""
        out = q.new_empty(q.shape)
        normed = hasattr(module, "q_norm")
        weights = _at(module.q_norm.weight, module.k_norm.weight) if normed else [None, None]
        self.functions.attend(
            *(len(q), cache.shape[3], *_at(q, k, v), q.stride(0)),
            *(*weights, module.q_norm.variance_epsilon if normed else 0.0),
            *(*_at(cos, sin), module.scaling, *_at(positions, starts, column, *cache, out)),
        )
        return out

    def draw(
        self,
        logits: Tensor,
        bar: Tensor | None,
        temperature: float,
        uniforms: Tensor | None,
        every: int,
        rows: Tensor,
        t: Tensor,
        ends: Tensor,
        tokens: Tensor,
        ids: Tensor,
        log_probs: Tensor,
        alive: Tensor,
        full: Tensor | None,
    ) -> None:
        """What `minicppo.rl.sampling` makes of logits (B, V), in place; decode.c describes each."""
        logits = logits.contiguous()
        self.functions.draw(
            *(*logits.shape, *_at(logits, bar), temperature, *_at(uniforms), every, *_at(rows, t), ids.shape[1]),
            *(*_at(ends), len(ends), *_at(tokens, ids, log_probs, alive, full)),
        )


def _at(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
