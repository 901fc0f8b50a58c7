"""What a language model's head says about tokens, from one tile of its logits: each pass reads the tile once.

The twins of `fold` and `softmax_` of `minicppo.rl.lm_head`, which make a pass over memory for every operation.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _fold(
    z,  # (M, N) logits of M tokens, of the vocabulary from `first` on
    wanted,  # (M, K) token ids
    top,  # (M,) each: largest logit so far, sum of exp(z - top), sum of exp(z - top) (z - top)
    total,
    moment,
    picked,  # (M, K) logits of the wanted
    first,
    scale,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    WANTED: tl.constexpr,
):
    m = tl.program_id(0)
    row = z + m.to(tl.int64) * N
    t, s, r = tl.load(top + m), tl.load(total + m), tl.load(moment + m)
    for start in range(0, N, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(row + v, mask=v < N, other=-float("inf")).to(tl.float32) * scale
        above = tl.maximum(t, tl.max(x))
        fall = tl.where(s > 0, t - above, 0.0)  # what was summed before is relative to an older maximum
        e = tl.exp(x - above)
        r = (r + s * fall) * tl.exp(fall) + tl.sum(tl.where(v < N, e * (x - above), 0.0))
        s = s * tl.exp(fall) + tl.sum(e)
        t = above
    tl.store(top + m, t)
    tl.store(total + m, s)
    tl.store(moment + m, r)
    k = tl.arange(0, WANTED)
    place = tl.load(wanted + m.to(tl.int64) * K + k, mask=k < K, other=-1) - first
    inside = (place >= 0) & (place < N)
    x = tl.load(row + place, mask=inside, other=0).to(tl.float32) * scale
    tl.store(picked + m.to(tl.int64) * K + k, x, mask=inside)


@triton.jit
def _softmax(z, lse, targets, first, scale, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = z + m.to(tl.int64) * N + v
    p = tl.exp(tl.load(here, mask=v < N, other=0).to(tl.float32) * scale - tl.load(lse + m))
    p = tl.where(v == tl.load(targets + m) - first, 0.0, p)
    tl.store(here, p.to(z.dtype.element_ty), mask=v < N)


def fold(
    z: Tensor, wanted: Tensor, first: int, scale: float, top: Tensor, total: Tensor, moment: Tensor, picked: Tensor
) -> None:
    """Fold a tile (M, N) of raw logits into float32 `top`, `total`, `moment` (M,) and `picked` (M, K), in place."""
    (m, n), k = z.shape, wanted.shape[1]
    with torch.cuda.device_of(z):
        _fold[(m,)](
            *(z, wanted.contiguous(), top, total, moment, picked, first, scale),
            N=n,
            K=k,
            BLOCK=min(triton.next_power_of_2(n), 4096),
            WANTED=triton.next_power_of_2(k),
            num_warps=8,
        )


def softmax_(z: Tensor, lse: Tensor, targets: Tensor, first: int, scale: float) -> Tensor:
    """exp(scale z - lse) in place of the raw logits z (M, N), 0 for each row's target."""
    (m, n), block = z.shape, min(triton.next_power_of_2(z.shape[1]), 4096)
    with torch.cuda.device_of(z):
        _softmax[(m, triton.cdiv(n, block))](z, lse, targets.contiguous(), first, scale, N=n, BLOCK=block, num_warps=8)
    return z
