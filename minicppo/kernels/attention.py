"""Attention of one new token a row over a key-value cache, from the raw projections to the attended values.

The twin of `DirectDecoder._attend_to`: normalise query and key, turn them to their position, write key
and value to the cache, attend. It reads the filled columns of each row alone, so that one recorded step serves all.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

FEW = 256  # programs, that must be fast one by one


@triton.jit
def _turned(x, heads, mask, weight, cos, sin, eps, D: tl.constexpr, WIDE: tl.constexpr, NORM: tl.constexpr):
    """(H, D) heads, normalised and rotated. `sin` has its sign, so that half a turn of the channels is a plain roll."""
    d = tl.arange(0, WIDE)[None, :]
    far = (d + D // 2) % D
    there, inside = x + heads[:, None] * D, mask[:, None] & (d < D)
    own = tl.load(there + d, mask=inside, other=0).to(tl.float32)
    rolled = tl.load(there + far, mask=inside, other=0).to(tl.float32)
    if NORM:
        scale = 1 / tl.sqrt(tl.sum(own * own, 1) / D + eps)
        own = own * scale[:, None] * tl.load(weight + d, mask=d < D).to(tl.float32)
        rolled = rolled * scale[:, None] * tl.load(weight + far).to(tl.float32)
    own = own * tl.load(cos + d, mask=d < D).to(tl.float32) + rolled * tl.load(sin + d, mask=d < D).to(tl.float32)
    return tl.where(inside, own, 0.0)


@triton.jit
def _attend(
    q,  # (B, KV * G * D), and k and v (B, KV * D): projections
    k,
    v,
    q_stride,  # from row to row
    k_stride,
    v_stride,
    q_weight,  # (D,) of the norms, or None
    k_weight,
    cos,  # (positions, D)
    sin,
    positions,  # (B,) of the new token
    starts,  # (B,) first column that is no padding
    column,  # (1,) where the new token goes
    keys,  # (B, KV, width, D)
    values,
    out,
    row_stride,
    head_stride,
    scaling,
    eps,
    D: tl.constexpr,
    KV: tl.constexpr,
    G: tl.constexpr,
    WIDE: tl.constexpr,  # D, and the queries G of one key, rounded up to powers of two
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
):
    row, kv = tl.program_id(0), tl.program_id(1)
    d, g, one = tl.arange(0, WIDE)[None, :], tl.arange(0, GROUP), tl.arange(0, 1)
    now, c0 = tl.load(column), tl.load(starts + row)
    at = tl.load(positions + row) * D
    base = row.to(tl.int64) * row_stride + kv * head_stride + d
    key = _turned(k + row * k_stride, kv + one, one == 0, k_weight, cos + at, sin + at, eps, D, WIDE, NORM)
    key = key.to(keys.dtype.element_ty)
    value = tl.load(v + row * v_stride + kv * D + d, mask=d < D, other=0).to(values.dtype.element_ty)
    tl.store(keys + base + now * D, key, mask=d < D)
    tl.store(values + base + now * D, value, mask=d < D)

    query = _turned(q + row * q_stride, kv * G + g, g < G, q_weight, cos + at, sin + at, eps, D, WIDE, NORM)
    query = query * scaling
    top = tl.sum(query * key.to(tl.float32), 1)  # the new token attends to itself, the others follow
    total = tl.full((GROUP,), 1.0, tl.float32)
    mixed = tl.zeros((GROUP, WIDE), tl.float32) + value.to(tl.float32)
    while c0 < now:
        c = c0 + tl.arange(0, BLOCK)
        there, inside = base + c[:, None] * D, (c < now)[:, None] & (d < D)
        old = tl.load(keys + there, mask=inside, other=0).to(tl.float32)
        score = tl.sum(query[:, None, :] * old[None, :, :], 2)
        score = tl.where((c < now)[None, :], score, -float("inf"))
        above = tl.maximum(top, tl.max(score, 1))
        p, fall = tl.exp(score - above[:, None]), tl.exp(top - above)
        old = tl.load(values + there, mask=inside, other=0).to(tl.float32)
        mixed = mixed * fall[:, None] + tl.sum(p[:, :, None] * old[None, :, :], 1)
        total = total * fall + tl.sum(p, 1)
        top = above
        c0 += BLOCK
    mixed = (mixed / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + (row * KV * G + kv * G + g)[:, None] * D + d, mixed, mask=(g < G)[:, None] & (d < D))


def attend(
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
    """(B, heads * D) attended values of the module's projections q, k and v; their key and value go to the cache.

    Args:
        cache: (2, B, KV, width, D), filled from each row's `starts` (B,) up to, and without, `column` (1,).
        cos, sin: (positions, D), of every position; `sin` with the sign of the rotation.
    """
    rows, (keys, values) = len(q), cache
    kv, d = keys.shape[1], keys.shape[3]
    groups = q.shape[1] // (kv * d)
    wide, group = triton.next_power_of_2(d), triton.next_power_of_2(groups)
    norms = (module.q_norm, module.k_norm) if hasattr(module, "q_norm") else None
    out = q.new_empty(q.shape, dtype=cache.dtype)
    size, warps = (2048, 1) if rows * kv > FEW else (16384, 8)  # of many programs each does little at a time
    with torch.cuda.device_of(q):
        _attend[(rows, kv)](
            *(q, k, v, q.stride(0), k.stride(0), v.stride(0)),
            *((None, None) if norms is None else (norm.weight for norm in norms)),
            *(cos, sin, positions, starts, column, keys, values, out),
            *(keys.stride(0), keys.stride(1), module.scaling, 0.0 if norms is None else norms[0].variance_epsilon),
            D=d,
            KV=kv,
            G=groups,
            WIDE=wide,
            GROUP=group,
            BLOCK=max(size // (group * wide), 16),
            NORM=norms is not None,
            num_warps=warps,
        )
    return out
