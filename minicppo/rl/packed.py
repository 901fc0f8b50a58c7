"""A rollout's hidden states on one thread of a CPU as C: tokens end to end, no padding, a prompt once for its group.

The twin of a model's own forward pass, for the models that `minicppo.rl.direct` knows.
"""

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
        qkv = _Product.apply(
            functions,
            _Norm.apply(functions, x, layer.input_layernorm.weight, eps),
            torch.cat([q.weight, k.weight, v.weight]),
        )
        if q.bias is not None:
            qkv = qkv + torch.cat([q.bias, k.bias, v.bias])
        attended = _Attention.apply(functions, shape, qkv, *weights, eps, attention.scaling, *around, tokens)
        x = x + _Product.apply(functions, attended, o.weight)
        normed = _Norm.apply(functions, x, layer.post_attention_layernorm.weight, eps)
        both = _Product.apply(functions, normed, torch.cat([gate.weight, up.weight]))
        x = x + _Product.apply(functions, _Gate.apply(functions, both), down.weight)
    return _Norm.apply(functions, x.index_select(0, tokens.before), base.norm.weight, eps)


class _Product(torch.autograd.Function):
    """x (M, K) times the transpose of weight (N, K)."""

    @staticmethod
    def forward(ctx: Any, functions: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.functions = functions
        ctx.save_for_backward(x, weight)
        (M, K), N = x.shape, len(weight)
        out = x.new_empty(M, N)
        call(functions.multiply, M, N, K, x, K, 1, panels(weight), K * LANES, LANES, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (M, K), N, dx, dw = x.shape, len(weight), None, None
        grad = grad.contiguous()
        if ctx.needs_input_grad[1]:
            dx = torch.empty_like(x)
            call(ctx.functions.multiply, M, K, N, grad, N, 1, weight, LANES, K, dx)
        if ctx.needs_input_grad[2]:
            dw = torch.empty_like(weight)
            call(ctx.functions.multiply, N, K, M, grad, 1, N, x, LANES, K, dw)
        return None, dx, dw


class _Norm(torch.autograd.Function):
    """Root-mean-square norms of the rows of x."""

    @staticmethod
    def forward(ctx: Any, functions: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.functions, ctx.eps = functions, eps
        ctx.save_for_backward(x, weight)
        out = torch.empty_like(x)
        call(functions.norm, *x.shape, x, weight, eps, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.zeros_like(weight)
        call(ctx.functions.norm_backward, *x.shape, x, weight, ctx.eps, grad.contiguous(), dx, dw)
        return None, dx, dw, None


class _Gate(torch.autograd.Function):
    """silu(gate) * up of the two halves of each row."""

    @staticmethod
    def forward(ctx: Any, functions: Any, both: Tensor) -> Tensor:
        ctx.functions = functions
        ctx.save_for_backward(both)
        out = both.new_empty(len(both), both.shape[1] // 2)
        call(functions.gate, *out.shape, both, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (both,) = ctx.saved_tensors
        dx = torch.empty_like(both)
        call(ctx.functions.gate_backward, *grad.shape, both, grad.contiguous(), dx)
        return None, dx


class _Attention(torch.autograd.Function):
    """Attended values (M, heads * D) of the projections (M, heads * D + 2 * KV * D), with norms and rotation."""

    @staticmethod
    def forward(
        ctx: Any,
        functions: Any,
        shape: tuple[int, int, int],
        qkv: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        eps: float,
        scaling: float,
        cos: Tensor,
        sin: Tensor,
        tokens: Tokens,
    ) -> Tensor:
        queries, keys, channels = shape
        turn = qkv.new_empty(len(qkv), (queries + keys) * channels)
        lse, out = qkv.new_empty(len(qkv), queries), qkv.new_empty(len(qkv), queries * channels)
        ctx.functions, ctx.eps, ctx.scaling, ctx.tokens = functions, eps, scaling, tokens
        ctx.save_for_backward(qkv, q_weight, k_weight, cos, sin, turn, lse, out)
        call(functions.attention, *_given(ctx, qkv, q_weight, k_weight, cos, sin), turn, lse, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, q_weight, k_weight, cos, sin, *kept = ctx.saved_tensors
        dx = torch.zeros_like(qkv)
        dq, dk = (None if weight is None else torch.zeros_like(weight) for weight in (q_weight, k_weight))
        given = _given(ctx, qkv, q_weight, k_weight, cos, sin)
        call(ctx.functions.attention_backward, *given, *kept, grad.contiguous(), dx, dq, dk)
        return None, None, dx, dq, dk, None, None, None, None, None


def _given(ctx: Any, qkv: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, cos: Tensor, sin: Tensor) -> Any:
    """What both passes begin with."""
    segments, positions = ctx.tokens.segments, ctx.tokens.positions
    return (
        *(len(qkv), len(segments), segments, qkv, q_weight, k_weight, ctx.eps),
        *(cos, sin, positions, ctx.scaling),
    )
