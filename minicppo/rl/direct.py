"""The models whose layers are known here: Llama, Qwen2 and Qwen3."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from minicppo.kernels.native import LANES, library

DIRECT = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # rotary angles that depend on the position alone
LARGEST = 1 << 28  # parameters up to which weights are copied


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
    layers, parameters = [linears(layer) for layer in model.model.layers], list(model.parameters())
    ours = (
        {(p.device.type, p.dtype, p.is_contiguous()) for p in parameters} == {("cpu", torch.float32, True)}
        and sum(p.numel() for p in parameters) <= LARGEST
        and {type(part) for layer in layers for part in [*layer, model.lm_head]} == {nn.Linear}  # no adapter's
        and not any(part.bias is not None for layer in layers for part in layer[3:])
        and not (model.training and (c.attention_dropout or model.is_gradient_checkpointing))
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
