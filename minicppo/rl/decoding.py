"""Reading prompts once and extending rows token by token: the part of sampling that costs time.

`DirectDecoder` runs the modules of a Llama or Qwen model over a key-value cache that is allocated once and written in
place. `GeneralDecoder` calls any `transformers` causal model on its growing cache. Both give the same logits.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from minicppo import kernels
from minicppo.rl.cuda_graph import Replay
from minicppo.rl.direct import direct, linears, rotations
from minicppo.rl.policy import layer_parameters

CUDA_BLOCK = 128  # columns that one captured graph serves
JOIN = 1 << 28  # parameters up to which products are so small that weights are copied to have fewer
Attention = Callable[[Any, Tensor, Tensor, Tensor, Tensor], Tensor]  # of module, q, k, v and cache


def decoder_for(model: PreTrainedModel) -> "GeneralDecoder":
    """The direct decoder for an architecture that it knows, without windows, hooks or rope that depends on length."""
    return DirectDecoder(model) if direct(model) else GeneralDecoder(model)


def read(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> tuple[Tensor, DynamicCache, Tensor]:
    """Logits (N, V) after each prompt, its cache, and the position (N,) of the token to come."""
    cache, positions = DynamicCache(config=model.config), (mask.cumsum(1) - 1).clamp(min=0)
    try:
        output = model(
            input_ids=ids,
            attention_mask=None if bool(mask.all()) else mask,  # without padding plain causal attention is faster
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    except IndexError as error:  # ids and positions were checked before
        raise ValueError(
            f"{type(model).__name__} finds no place in the cache of {len(cache.layers)} layers that its config.json "
            f"describes ({error}). Way out: mend the number of layers there"
        ) from error
    filled = all(getattr(layer, "is_initialized", True) for layer in cache.layers)  # recurrent ones do not tell
    if output.get("past_key_values") is None or not filled:  # it would see one token alone at each step
        raise ValueError(
            f"{type(model).__name__} filled no past_key_values, the one cache it can be sampled from: take a model "
            "with attention, and leave training mode where gradient checkpointing is on"
        )
    return output.logits[:, -1], cache, positions[:, -1] + 1


class GeneralDecoder:
    """B rows that grow together, under the caller's autocast context: any causal model, on its own growing cache.

    Logits are (B, V), of the next token; the next call may overwrite them.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def read(self, ids: Tensor, mask: Tensor, samples: int, room: int) -> Tensor:
        """Read prompts (N, P), padded on the left, each once, open `samples` rows for each, and return their logits.

        room: most tokens that a row may still get.
        """
        logits, self.cache, positions = read(self.model, ids, mask)
        if samples > 1:
            self.cache.reorder_cache(torch.arange(len(ids), device=ids.device).repeat_interleave(samples))
        self.mask, self.positions = (x.repeat_interleave(samples, 0) for x in (mask, positions))
        self.padded = not bool(mask.all())
        return logits.repeat_interleave(samples, 0)

    def step(self, tokens: Tensor, then: Callable[[Tensor], None]) -> None:
        """Append one token (B,) to every row, and hand the logits to `then`.

        On a GPU the two may be recorded and replayed: until `keep`, `tokens` and whatever `then` works on are the same
        tensors at every step, and `then` asks the GPU nothing.
        """
        self.mask = F.pad(self.mask, (0, 1), value=True)
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions = self.positions + 1
        then(output.logits[:, -1])

    def keep(self, order: Tensor) -> None:
        """Go on with the rows `order` (C <= B) alone: row i is now what row order[i] was, and order[i] is i or >= C."""
        self.cache.reorder_cache(order)  # which recurrent states know too, unlike batch_select_indices
        self.mask, self.positions = self.mask[order], self.positions[order]


class DirectDecoder(GeneralDecoder):
    """Llama, Qwen2 and Qwen3: the model's own modules around an attention over one new token a row.

    The cache is written in place, only the rows that fill a gap ever move, heads that share keys read them once, and
    nothing is checked or built anew at each step. On a GPU a step is one graph, and its attention one kernel.

    Attributes:
        block: attend to the filled columns rounded up to a multiple of this, the unfilled ones masked: on a GPU that
            lacks the kernel, one graph serves the whole block.
    """

    def __init__(self, model: PreTrainedModel, block: int | None = None):
        super().__init__(model)
        self.inputs = [(of[:3], of[4:6]) for of in map(linears, model.model.layers)]  # of q, k and v, of gate and up
        plain = all(type(part) is nn.Linear for layer in self.inputs for parts in layer for part in parts)
        self.joins = plain and layer_parameters(model) <= JOIN  # plain: without adapters
        self.block = block or (CUDA_BLOCK if model.device.type == "cuda" else 1)
        self.fused = kernels.usable(model.lm_head.weight)

    def read(self, ids: Tensor, mask: Tensor, samples: int, room: int) -> Tensor:
        logits, cache, positions = read(self.model, ids, mask)
        keys, device, kind = cache.layers[0].keys, ids.device, ids.device.type
        self.replay = Replay(device) if kind == "cuda" else None
        self.filled, self.column = ids.shape[1], torch.tensor([ids.shape[1]], device=device)
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else keys.dtype
        self.masked = self.block > 1 or not bool(mask.all())
        rows, width = len(ids) * samples, -(-(self.filled + room) // self.block) * self.block
        shape = (len(cache.layers), 2, rows, keys.shape[1], width, keys.shape[3])
        self.cache = torch.zeros(shape, dtype=dtype, device=device)
        for ours, theirs in zip(self.cache, cache.layers, strict=True):
            ours[0, :, :, : self.filled] = theirs.keys.repeat_interleave(samples, 0)
            ours[1, :, :, : self.filled] = theirs.values.repeat_interleave(samples, 0)
        mask, self.positions = (x.repeat_interleave(samples, 0) for x in (mask, positions))
        self.starts = (~mask).sum(1)
        self.bias = torch.full((rows, 1, 1, width), -torch.inf, dtype=dtype, device=device)
        self.bias[:, 0, 0, : self.filled].masked_fill_(mask, 0)
        self.cos, self.sin = rotations(self.model, int(positions.max()) + room)
        joined = dtype if self.joins and self.fused else None
        self.projections = [[_project(parts, joined) for parts in layer] for layer in self.inputs]
        return logits.repeat_interleave(samples, 0)

    def step(self, tokens: Tensor, then: Callable[[Tensor], None]) -> None:
        self.filled += 1
        columns = 0 if self.fused else -(-self.filled // self.block) * self.block
        if self.replay is None:
            then(self._forward(tokens, columns))
        else:
            self.replay((len(tokens), columns), lambda: then(self._forward(tokens, columns)))

    def keep(self, order: Tensor) -> None:
        if self.replay is not None:
            self.replay.forget()
        gaps = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
        movers, filled = order[gaps], -(-self.filled // self.block) * self.block
        for part in self.cache.flatten(0, 1):
            part[gaps, :, :filled] = part[movers, :, :filled]
        for values in (self.bias, self.starts, self.positions):
            values[gaps] = values[movers]

    def _forward(self, tokens: Tensor, columns: int) -> Tensor:
        """Logits (rows, V) after the tokens, whose keys and values go to `column`; everything it changes, in place."""
        rows, model = len(tokens), self.model.model
        if self.fused:
            from minicppo.kernels.attention import attend as in_one_kernel  # Triton: not everywhere

            at = {"positions": self.positions[:rows], "starts": self.starts[:rows], "column": self.column}
            attend: Attention = partial(in_one_kernel, cos=self.cos, sin=self.sin, **at)
        else:
            attend = self._attend_to(rows, columns)
        x = model.embed_tokens(tokens)
        for layer, (qkv, gates), cache in zip(model.layers, self.projections, self.cache[:, :, :rows], strict=True):
            q, k, v = qkv(_norm(layer.input_layernorm, x))
            x = x + layer.self_attn.o_proj(attend(layer.self_attn, q, k, v, cache))
            gate, up = gates(_norm(layer.post_attention_layernorm, x))
            x = x + layer.mlp.down_proj(layer.mlp.act_fn(gate) * up)
        self.positions += 1
        self.column += 1
        logits: Tensor = self.model.lm_head(_norm(model.norm, x))
        return logits

    def _attend_to(self, rows: int, columns: int) -> Attention:
        """The attention of all layers at this step, to so many columns."""
        at = self.positions[:rows]
        cos, sin = self.cos[at][:, None], self.sin[at][:, None]
        bias = self.bias[:rows, ..., :columns].index_fill_(3, self.column, 0) if self.masked else None

        def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, cache: Tensor) -> Tensor:
            """(rows, heads * D) from the projections of the new tokens; cache (2, rows, KV, width, D)."""
            keys, values = cache
            q, k, v = (x.view(rows, -1, cache.shape[-1]) for x in (q, k, v))
            if hasattr(module, "q_norm"):
                q, k = _norm(module.q_norm, q), _norm(module.k_norm, k)
            q, k = (x * cos + x.roll(x.shape[-1] // 2, -1) * sin for x in (q, k))
            keys.index_copy_(2, self.column, k[:, :, None].to(cache.dtype))
            values.index_copy_(2, self.column, v[:, :, None].to(cache.dtype))
            out = F.scaled_dot_product_attention(
                q.view(rows, keys.shape[1], -1, q.shape[-1]).to(cache.dtype),  # heads that share keys: so many queries
                keys[:, :, :columns],
                values[:, :, :columns],
                attn_mask=bias,
                scale=module.scaling,
            )
            return out.reshape(rows, -1)

        return attend


def _project(parts: list[Any], joined: torch.dtype | None) -> Callable[[Tensor], Sequence[Tensor]]:
    """What each of the projections makes of x; by one product with copies of the weights of type `joined`, if any."""
    if joined is None:
        return lambda x: [part(x) for part in parts]
    weight, biases = torch.cat([part.weight for part in parts]).to(joined), [part.bias for part in parts]
    bias = torch.cat(found).to(joined) if (found := [bias for bias in biases if bias is not None]) else None
    widths = [part.out_features for part in parts]
    return lambda x: F.linear(x, weight, bias).split(widths, -1)


def _norm(module: Any, x: Tensor) -> Tensor:
    """A root-mean-square norm, by the one kernel that a GPU has for it where types are plain."""
    if x.is_cuda and x.dtype == module.weight.dtype:
        return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)
    normed: Tensor = module(x)
    return normed
