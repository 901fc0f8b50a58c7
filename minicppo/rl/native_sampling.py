"""Sampling on one thread of a CPU as C: from the prompts' keys and values on, all tokens of all rows."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minicppo.kernels.native import LANES, Job, Layer, at, blocked, panels
from minicppo.rl.direct import linears, rotations
from minicppo.rl.policy import Policy, layer_parameters

SLOTS = 24  # rows that are computed together: few enough for the caches, enough for the products
WEIGHTS = 1e5  # parameters for which one row more: large weights are read anew at every step
STEPS = 64  # between two chances to interrupt


def decode(
    functions: Any,
    policy: Policy,
    cache: Any,
    prompt_mask: Tensor,
    logits: Tensor,
    samples: int,
    temperature: float,
    uniforms: Tensor | None,
    likeliest: bool,
    ids: Tensor,
    log_probs: Tensor,
    top_ids: Tensor | None,
    top: Tensor | None,
) -> Tensor:
    """(rows,) numbers of tokens. These, and what is kept of them, go to the last four arguments, (rows, T, ...).

    Args:
        cache: of each layer keys and values (N, KV, P, D), padded on the left where prompt_mask (N, P) is false.
        logits: (N, V) after each prompt.
        samples: rows a prompt; the first of them of likeliest tokens, if so asked; without uniforms all of them.
    """
    model, config = policy.model, policy.model.config
    (rows, most), (count, vocabulary) = ids.shape, logits.shape
    lengths, width = prompt_mask.sum(1), -(-most // LANES) * LANES
    slots = min(rows, max(SLOTS, int(layer_parameters(model) / WEIGHTS)))
    prompt_width = -(-int(lengths.max()) // LANES) * LANES
    columns = torch.arange(prompt_width) + (prompt_mask.shape[1] - lengths)[:, None]  # padding goes to the right
    columns = columns.clamp(max=prompt_mask.shape[1] - 1)[None, None, :, None, :, None]
    prompts = torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])
    prompts = prompts.take_along_dim(columns, 4).contiguous()  # (layers, 2, N, KV, prompt_width, D)
    prompts[:, 0] = blocked(prompts[:, 0])
    heads, channels = prompts.shape[3], prompts.shape[5]
    head, extra = panels(model.lm_head.weight), -vocabulary % LANES
    bias = torch.zeros(vocabulary) if model.lm_head.bias is None else model.lm_head.bias
    bar = policy.barred(vocabulary)
    bias, first = (F.pad(x if bar is None else x + bar, (0, extra), value=-torch.inf) for x in (bias, logits))
    layers = [_pointers(layer) for layer in model.model.layers]
    queries, inner = config.num_attention_heads * channels, config.intermediate_size
    per_row = 2 * config.hidden_size + 2 * queries + 2 * heads * channels + 2 * inner + vocabulary + extra
    taken, state = torch.zeros(rows, dtype=torch.long), torch.zeros(4, slots, dtype=torch.long)
    state[3] = torch.arange(slots)
    tensors = {
        "embedding": model.model.embed_tokens.weight,
        "norm": model.model.norm.weight,
        "head": head,
        "bias": bias,
        **dict(zip(("cos", "sin"), rotations(model, int(lengths.max()) + most), strict=True)),
        "prompts": prompts,
        "first": first,
        "lengths": lengths,
        "uniforms": uniforms,
        "ends": torch.tensor(policy.ends, dtype=torch.long),
        "ids": ids,
        "taken": taken,
        "top_ids": top_ids,
        "log_probs": log_probs,
        "top": top,
        "cache": torch.empty(len(layers), slots, 2, heads, width, channels),
        "scratch": torch.empty((slots + 1) * per_row),
        "state": state,
    }
    table = (Layer * len(layers))(*(Layer(*map(at, layer)) for layer in layers))
    job = Job(
        layer=ctypes.addressof(table),
        **{name: at(tensor) for name, tensor in tensors.items()},
        layers=len(layers),
        hidden=config.hidden_size,
        inner=inner,
        vocabulary=vocabulary,
        padded=vocabulary + extra,
        prompt_count=count,
        prompt_width=prompt_width,
        samples=samples,
        every=samples if likeliest else 0,
        rows=rows,
        most=most,
        endings=len(policy.ends),
        k=0 if top is None else top.shape[2],
        slots=slots,
        width=width,
        eps=model.model.norm.variance_epsilon,
        scaling=model.model.layers[0].self_attn.scaling,
        temperature=temperature,
    )
    while functions.decode(job, STEPS):
        pass
    assert int(taken.min()) > 0, "a row was not sampled"
    return taken


def _pointers(layer: Any) -> list[Tensor | None]:
    """A layer's weights in the order of `Layer`."""
    q, k, v, o, gate, up, down = linears(layer)
    attention = layer.self_attn
    head_norms = [attention.q_norm.weight, attention.k_norm.weight] if hasattr(attention, "q_norm") else [None, None]
    return [
        *(layer.input_layernorm.weight, panels(q.weight, k.weight, v.weight)),
        *(None if q.bias is None else torch.cat([q.bias, k.bias, v.bias]), *head_norms, panels(o.weight)),
        *(layer.post_attention_layernorm.weight, panels(gate.weight, up.weight), panels(down.weight)),
    ]
