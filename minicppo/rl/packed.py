"""A rollout's hidden states on one thread of a CPU as C: tokens end to end, no padding, a prompt once for its group.

The twin of a model's own forward pass, for the models that `minicppo.rl.direct` knows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import PreTrainedModel

from minicppo.kernels.native import LANES, call, panels
from minicppo.rl.direct import linears, rotations
from minicppo.rl.rollout import Rollout


class Tokens(NamedTuple):
    """Prompts, then responses without their last tokens, end to end.

    Attributes:
        ids, positions: (M,).
        segments: (S, 4) first token and length of each; those of what it continues.
        before: (n,) of each response token in turn, the one it is predicted from.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    before: Tensor


def tokens_of(rollout: Rollout, firsts: Tensor) -> Tokens:
    """The tokens to compute. firsts: (N,) bool, the first row of each run of rows that share a prompt."""
    mask, prompts = rollout.prompt_mask[firsts], rollout.prompt_ids[firsts]
    run, t = firsts.cumsum(0) - 1, torch.arange(rollout.response_ids.shape[1])
    lengths, own = mask.sum(1), (rollout.response_mask.sum(1) - 1).clamp(min=0)
    ends = torch.cat([lengths, own]).cumsum(0)
    starts = ends - torch.cat([lengths, own])
    of_prompt, of_own, none = starts[: len(lengths)], starts[len(lengths) :], torch.zeros_like(lengths)
    segments = torch.cat([
        torch.stack([of_prompt, lengths, none, none], 1),
        torch.stack([of_own, own, of_prompt[run], lengths[run]], 1),
    ])  # fmt: skip
    computed = t < own[:, None]
    positions = [(mask.cumsum(1) - 1)[mask], (lengths[run][:, None] + t)[computed]]
    last = (of_prompt + lengths - 1)[run][:, None]
    before = torch.where(t == 0, last, of_own[:, None] + t - 1)[rollout.response_mask]
    return Tokens(torch.cat([prompts[mask], rollout.response_ids[computed]]), torch.cat(positions), segments, before)


def hidden_states(functions: Any, model: PreTrainedModel, rollout: Rollout, firsts: Tensor) -> Tensor:
    """(n, d) last hidden states from which the response's tokens, in the order of the mask, are predicted."""
    tokens, base, c = tokens_of(rollout, firsts), model.model, model.config
    eps, around = base.norm.variance_epsilon, rotations(model, int(tokens.positions.max()) + 1)
    shape = c.num_attention_heads, c.num_key_value_heads, base.layers[0].self_attn.head_dim
    x = F.embedding(tokens.ids, base.embed_tokens.weight)
    for layer in base.layers:
        q, k, v, o, gate, up, down = linears(layer)
        attention = layer.self_attn
        weights = [attention.q_norm.weight, attention.k_norm.weight] if hasattr(attention, "q_norm") else [None, None]
        normed = _norm(functions, x, layer.input_layernorm.weight, eps)
        qkv = _product(functions, normed, torch.cat([q.weight, k.weight, v.weight]))
        if q.bias is not None:
            qkv = qkv + torch.cat([q.bias, k.bias, v.bias])
        attended = _attention(functions, shape, tokens, around, eps, attention.scaling, qkv, *weights)
        x = x + _product(functions, attended, o.weight)
        normed = _norm(functions, x, layer.post_attention_layernorm.weight, eps)
        both = _product(functions, normed, torch.cat([gate.weight, up.weight]))
        x = x + _product(functions, _gate(functions, both), down.weight)
    return _norm(functions, x.index_select(0, tokens.before), base.norm.weight, eps)


class _Twin(torch.autograd.Function):
    """By functions of C: `make` makes the result, and what else `back` needs, which makes the gradients."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., list[Tensor]], back: Callable[..., Any], *given: Tensor | None) -> Tensor:
        out, *kept = make(*given)
        ctx.back = back
        ctx.save_for_backward(*given, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.back(ctx.needs_input_grad[2:], grad.contiguous(), *ctx.saved_tensors)


def _product(functions: Any, x: Tensor, weight: Tensor) -> Any:
    """x (M, K) times the transpose of weight (N, K)."""
    (M, K), N = x.shape, len(weight)

    def make(x: Tensor, weight: Tensor) -> list[Tensor]:
        out = x.new_empty(M, N)
        call(functions.multiply, M, N, K, x, K, 1, panels(weight), K * LANES, LANES, out)
        return [out]

    def back(needs: tuple[bool, ...], grad: Tensor, x: Tensor, weight: Tensor) -> list[Tensor | None]:
        dx, dw = (torch.empty_like(each) if asked else None for each, asked in zip((x, weight), needs, strict=True))
        if dx is not None:
            call(functions.multiply, M, K, N, grad, N, 1, weight, LANES, K, dx)
        if dw is not None:
            call(functions.multiply, N, K, M, grad, 1, N, x, LANES, K, dw)
        return [dx, dw]

    return _Twin.apply(make, back, x, weight)


def _norm(functions: Any, x: Tensor, weight: Tensor, eps: float) -> Any:
    """Root-mean-square norms of the rows of x."""

    def make(x: Tensor, weight: Tensor) -> list[Tensor]:
        call(functions.norm, *x.shape, x, weight, eps, out := torch.empty_like(x))
        return [out]

    def back(needs: tuple[bool, ...], grad: Tensor, x: Tensor, weight: Tensor) -> list[Tensor]:
        dx, dw = torch.empty_like(x), torch.zeros_like(weight)
        call(functions.norm_backward, *x.shape, x, weight, eps, grad, dx, dw)
        return [dx, dw]

    return _Twin.apply(make, back, x, weight)


def _gate(functions: Any, both: Tensor) -> Any:
    """silu(gate) * up of the two halves of each row."""

    def make(both: Tensor) -> list[Tensor]:
        out = both.new_empty(len(both), both.shape[1] // 2)
        call(functions.gate, *out.shape, both, out)
        return [out]

    def back(needs: tuple[bool, ...], grad: Tensor, both: Tensor) -> list[Tensor]:
        call(functions.gate_backward, *grad.shape, both, grad, dx := torch.empty_like(both))
        return [dx]

    return _Twin.apply(make, back, both)


def _attention(
    functions: Any,
    shape: tuple[int, int, int],
    tokens: Tokens,
    around: tuple[Tensor, Tensor],
    eps: float,
    scaling: float,
    qkv: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
) -> Any:
    """Attended values (M, heads * D) of the projections (M, heads * D + 2 * KV * D), with norms and rotation."""
    queries, keys, channels = shape
    M, segments = len(qkv), tokens.segments
    rest = eps, *around, tokens.positions, scaling

    def make(*given: Tensor | None) -> list[Tensor]:
        turn = qkv.new_empty(M, (queries + keys) * channels)
        lse, out = qkv.new_empty(M, queries), qkv.new_empty(M, queries * channels)
        call(functions.attention, M, len(segments), segments, *given, *rest, turn, lse, out)
        return [out, turn, lse, out]

    def back(needs: tuple[bool, ...], grad: Tensor, *saved: Tensor | None) -> list[Tensor | None]:
        given, kept = saved[:3], saved[3:]
        slopes = [None if each is None else torch.zeros_like(each) for each in given]
        call(functions.attention_backward, M, len(segments), segments, *given, *rest, *kept, grad, *slopes)
        return slopes

    return _Twin.apply(make, back, qkv, q_weight, k_weight)
