"""What one thread of a CPU runs as C, for Llama and Qwen models in float32: compiled at its first use, then kept.

Without a C compiler, or with `MINICPPO_KERNELS=0`, PyTorch's operations do the same work.
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
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from minicppo.files import atomically

DIRECT = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # rotary angles that depend on the position alone
SOURCES = [Path(__file__).with_name(name) for name in ("decode.c", "lanes.h")]
LANES = 16  # floats that are computed at a time: heads and layers must be as wide, or multiples of it
FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fPIC", "-shared"]
CAPABILITY = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mfma"]}  # by the name that torch has for it
LARGEST = 1 << 28  # parameters up to which weights are copied


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
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if os.environ.get("MINICPPO_KERNELS") == "0" or compiler is None:
        return None
    flags = FLAGS + CAPABILITY.get(torch.backends.cpu.get_cpu_capability(), [])
    flags += [f"-DKV={heads}", f"-DG={groups}", f"-DD={channels}"]
    text = b"".join(path.read_bytes() for path in SOURCES)
    key = hashlib.sha256(text + " ".join([os.uname().machine, *flags]).encode()).hexdigest()
    try:  # in the user's own cache: what a working directory holds may be anybody's, and this is run
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = folder / "minicppo" / f"native-{key[:16]}.so"
        if not path.is_file():
            sources = [str(path) for path in SOURCES if path.suffix == ".c"]
            with atomically(path, shared=True) as scratch:
                subprocess.run([compiler, *flags, *sources, "-o", str(scratch), "-lm"], check=True, capture_output=True)
        found = ctypes.CDLL(str(path.resolve()))
    except (OSError, RuntimeError, subprocess.CalledProcessError):
        return None
    found.decode.argtypes, found.decode.restype = [ctypes.POINTER(Job), ctypes.c_long], ctypes.c_long
    return found


def direct(model: PreTrainedModel) -> bool:
    """Llama, Qwen2 or Qwen3 without windows, hooks, or a rope that depends on the length."""
    return (
        type(model) in DIRECT
        and model.model.rotary_emb.rope_type in FIXED_ROPE
        and set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    )


def native(model: PreTrainedModel) -> Any:
    """The functions of C for a direct model in float32 on one thread whose heads and layers fill vectors, or None."""
    if not direct(model) or torch.get_num_threads() != 1 or torch.is_autocast_enabled("cpu"):
        return None
    c, heads = model.config, model.config.num_key_value_heads
    channels = model.model.layers[0].self_attn.head_dim
    parts = [part for layer in model.model.layers for part in linears(layer)]
    ours = (
        {(p.device.type, p.dtype, p.is_contiguous()) for p in model.parameters()} == {("cpu", torch.float32, True)}
        and all(type(part) is nn.Linear for part in [*parts, model.lm_head])  # and nothing more, as with adapters
        and not any(part.bias is not None for layer in model.model.layers for part in linears(layer)[3:])
        and c.hidden_act in ("silu", "swish")
        and not any(width % LANES for width in (c.hidden_size, c.intermediate_size, channels))
    )
    return library(heads, c.num_attention_heads // heads, channels) if ours else None


def linears(layer: Any) -> list[Any]:
    """The seven products of a layer: of q, k and v, of o, and of gate, up and down."""
    attention, mlp = layer.self_attn, layer.mlp
    inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
    return [*inputs, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def rotations(model: PreTrainedModel, positions: int) -> tuple[Tensor, Tensor]:
    """(positions, D) cosines and sines, these with a sign, so that half a turn of the channels is a plain roll."""
    reach = torch.arange(positions, device=model.device)[None]
    cos, sin = model.model.rotary_emb(model.model.embed_tokens.weight, reach)
    sign = torch.ones_like(sin[0])
    sign[:, : sign.shape[1] // 2] = -1
    return cos[0], sin[0] * sign


def panels(*weights: Tensor) -> Tensor:
    """Of weights (.., K), joined, 16 columns of the transpose at a time; zeros fill the last."""
    joined = torch.cat(weights)
    joined = F.pad(joined, (0, 0, 0, -len(joined) % LANES))
    return joined.view(-1, LANES, joined.shape[1]).transpose(1, 2).contiguous()


def blocked(keys: Tensor) -> Tensor:
    """Keys (..., width, D), of each 16 columns the channels one after the other, in the same shape."""
    return keys.unflatten(-2, (-1, LANES)).transpose(-1, -2).contiguous().view(keys.shape)


def at(tensor: Tensor | None) -> int | None:
    """Where C finds it; it must be contiguous."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
