"""Reading prompts once and extending rows token by token: the part of sampling that costs time.

`DirectDecoder` runs the modules of a Llama or Qwen model over a key-value cache that is allocated once and written in
place. `GeneralDecoder` calls any `transformers` causal model on its growing cache. Both give the same logits.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

DIRECT = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # rotary angles that depend on the position alone
CUDA_BLOCK = 128  # columns that one captured graph serves


class Decoder(ABC):
    """B rows that grow together, under the caller's autocast context.

    `read` and `step` return logits (B, V) of the next token, which the next call may overwrite.
    """

    @abstractmethod
    def read(self, ids: Tensor, mask: Tensor, samples: int, room: int) -> Tensor:
        """Read prompts (N, P), padded on the left, each once, and open `samples` rows for each: B = N * samples.

        Args:
            room: most tokens that a row may still get.
        """

    @abstractmethod
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) to every row."""

    @abstractmethod
    def keep(self, order: Tensor) -> None:
        """Go on with the rows `order` (C <= B) alone: row i is now what row order[i] was, and order[i] is i or >= C."""


def decoder_for(model: PreTrainedModel) -> Decoder:
    """The direct decoder where it computes just what the model does, else the general one."""
    return DirectDecoder(model) if knows(model) else GeneralDecoder(model)


def knows(model: PreTrainedModel) -> bool:
    """Is this an architecture that `DirectDecoder` computes, without windows, hooks or rope that depends on length?"""
    return (
        type(model) in DIRECT
        and model.model.rotary_emb.rope_type in FIXED_ROPE
        and set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    )


def _read(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> tuple[Tensor, DynamicCache, Tensor]:
    """Logits (N, V) after each prompt, its cache, and the position (N,) of the token to come.

    Raises:
        ValueError: the model did not fill the cache, and would see one token alone at each step.
    """
    cache, positions = DynamicCache(config=model.config), (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids,
        attention_mask=None if bool(mask.all()) else mask,  # without padding plain causal attention is faster
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    filled = all(getattr(layer, "is_initialized", True) for layer in cache.layers)  # recurrent ones do not tell
    if output.get("past_key_values") is None or not filled:
        raise ValueError(
            f"{type(model).__name__} filled no past_key_values, the one cache it can be sampled from: take a model "
            "with attention, and leave training mode where gradient checkpointing is on"
        )
    return output.logits[:, -1], cache, positions[:, -1] + 1


class GeneralDecoder(Decoder):
    """Any causal model of `transformers`, on its own growing cache."""

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def read(self, ids: Tensor, mask: Tensor, samples: int, room: int) -> Tensor:
        logits, self.cache, positions = _read(self.model, ids, mask)
        if samples > 1:
            self.cache.reorder_cache(torch.arange(len(ids), device=ids.device).repeat_interleave(samples))
        self.mask, self.positions = (x.repeat_interleave(samples, 0) for x in (mask, positions))
        self.padded = not bool(mask.all())
        return logits.repeat_interleave(samples, 0)

    def step(self, tokens: Tensor) -> Tensor:
        self.mask = F.pad(self.mask, (0, 1), value=True)
        logits: Tensor = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.positions = self.positions + 1
        return logits

    def keep(self, order: Tensor) -> None:
        self.cache.reorder_cache(order)  # which recurrent states know too, unlike batch_select_indices
        self.mask, self.positions = self.mask[order], self.positions[order]


class DirectDecoder(Decoder):
    """Llama, Qwen2 and Qwen3: the model's own modules around an attention over one new token a row.

    The cache is written in place rather than copied at every step, only the rows that fill a gap ever move, heads that
    share keys read them once, and nothing is checked or built anew at each step. On a GPU a step is a captured graph.

    Attributes:
        block: attend to the filled columns rounded up to a multiple of this, the unfilled ones masked: on a GPU one
            graph serves the whole block.
    """

    def __init__(self, model: PreTrainedModel, block: int | None = None):
        self.model = model
        self.block = block or (CUDA_BLOCK if model.device.type == "cuda" else 1)

    def read(self, ids: Tensor, mask: Tensor, samples: int, room: int) -> Tensor:
        logits, cache, positions = _read(self.model, ids, mask)
        keys, device = cache.layers[0].keys, ids.device
        rows, filled = len(ids) * samples, ids.shape[1]
        width = -(-(filled + room) // self.block) * self.block
        device_type = device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else keys.dtype
        self.cache = torch.zeros(
            len(cache.layers), 2, rows, keys.shape[1], width, keys.shape[3], dtype=dtype, device=device
        )
        for ours, theirs in zip(self.cache, cache.layers, strict=True):
            ours[0, :, :, :filled] = theirs.keys.repeat_interleave(samples, 0)
            ours[1, :, :, :filled] = theirs.values.repeat_interleave(samples, 0)
        self.bias = torch.full((rows, 1, 1, width), -torch.inf, dtype=dtype, device=device)
        self.bias[:, 0, 0, :filled].masked_fill_(mask.repeat_interleave(samples, 0), 0)
        self.masked = self.block > 1 or not bool(mask.all())
        self.filled, self.column = filled, torch.tensor([filled], device=device)
        self.positions = positions.repeat_interleave(samples, 0)
        self.tokens = torch.zeros_like(self.positions)
        reach = torch.arange(int(positions.max()) + room, device=device)[None]
        cos, sin = self.model.model.rotary_emb(self.model.model.embed_tokens.weight, reach)
        sign = torch.ones_like(sin[0])
        sign[:, : sign.shape[1] // 2] = -1
        self.cos, self.sin = cos[0], sin[0] * sign  # so that half a turn of the head's channels is a plain roll
        self.captured = (0, 0)
        return logits.repeat_interleave(samples, 0)

    def step(self, tokens: Tensor) -> Tensor:
        rows = len(tokens)
        self.tokens[:rows] = tokens
        self.bias[:rows, ..., self.filled] = 0
        self.filled += 1
        columns = -(-self.filled // self.block) * self.block
        if tokens.device.type != "cuda":
            self.logits = self._forward(rows, columns)
        else:
            if self.captured != (rows, columns):
                self._capture(rows, columns)
            self.graph.replay()
        self.positions += 1
        self.column += 1
        return self.logits

    def keep(self, order: Tensor) -> None:
        gaps = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
        movers, filled = order[gaps], self.filled
        for part in self.cache.flatten(0, 1):
            part[gaps, :, :filled] = part[movers, :, :filled]
        self.bias[gaps], self.positions[gaps] = self.bias[movers], self.positions[movers]

    def _capture(self, rows: int, columns: int) -> None:
        """Record a step of this shape. To run it beforehand is harmless: it writes the column that is written again."""
        with torch.cuda.device(self.tokens.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries set up their workspaces, autocast casts the weights
                self._forward(rows, columns)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.logits = self._forward(rows, columns)
        self.captured = (rows, columns)

    def _forward(self, rows: int, columns: int) -> Tensor:
        """Logits (rows, V) after `tokens`, whose keys and values go to `column`."""
        at = self.positions[:rows]
        cos, sin = self.cos[at][:, None], self.sin[at][:, None]
        bias = self.bias[:rows, ..., :columns] if self.masked else None
        x = self.model.model.embed_tokens(self.tokens[:rows])
        for layer, cache in zip(self.model.model.layers, self.cache[:, :, :rows], strict=True):
            x = x + self._attend(layer.self_attn, cache, layer.input_layernorm(x), columns, cos, sin, bias)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits: Tensor = self.model.lm_head(self.model.model.norm(x))
        return logits

    def _attend(
        self, module: Any, cache: Tensor, x: Tensor, columns: int, cos: Tensor, sin: Tensor, bias: Tensor | None
    ) -> Tensor:
        """One layer's attention (rows, width of the model) from its normalised input; cache (2, rows, KV, width, D)."""
        rows, (keys, values) = len(x), cache
        q, k, v = (
            project(x).view(rows, -1, cache.shape[-1]) for project in (module.q_proj, module.k_proj, module.v_proj)
        )
        if hasattr(module, "q_norm"):
            q, k = module.q_norm(q), module.k_norm(k)
        q, k = (head * cos + head.roll(head.shape[-1] // 2, -1) * sin for head in (q, k))
        keys.index_copy_(2, self.column, k[:, :, None].to(cache.dtype))
        values.index_copy_(2, self.column, v[:, :, None].to(cache.dtype))
        out = F.scaled_dot_product_attention(
            q.view(rows, keys.shape[1], -1, q.shape[-1]).to(cache.dtype),  # heads that share keys are so many queries
            keys[:, :, :columns],
            values[:, :, :columns],
            attn_mask=bias,
            scale=module.scaling,
        )
        projected: Tensor = module.o_proj(out.reshape(rows, -1))
        return projected
