"""Log-probs and entropy straight from hidden states: the head's logits are made tile by tile, and never kept.

A tile is some tokens times some of the vocabulary. The forward pass folds each into a running log-sum-exp; the backward
pass computes it again, so that memory is bounded by one tile whatever the vocabulary and the number of tokens. With
z = (W h + b) / temperature and p = softmax(z), per token of upstream gradient g,

    log p(y) = z_y - lse(z)        entropy = lse(z) - sum_v p_v z_v        d log p(y) / dz = onehot(y) - p

The tiles and the backward pass are ours; folding a log-sum-exp blockwise is Milakov and Gimelshein, arXiv 1805.02867.
On a GPU `minicppo.kernels.lm_head` makes the passes over a tile; `fold` and `softmax_` are its twins.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from minicppo import kernels

Tile = tuple[int, int]  # tokens, vocabulary entries
CPU_TILE: Tile = (512, 4096)  # 8 MB in float32: about the cache, and enough rows for the matrix product
GPU_TILE: Tile = (8192, 6144)  # 96 MB in bfloat16: large enough that starting a kernel costs nothing


@dataclass(frozen=True)
class LogProbs:
    """What a policy says about sampled tokens, here of shape (M,), of a rollout (N, T).

    Attributes:
        log_probs: float32 with gradient, log pi of each sampled token.
        entropy: float32, detached, of each whole distribution, in nats.
        top_log_probs: (..., K) float32, detached, log pi of further tokens; None without any.
    """

    log_probs: Tensor
    entropy: Tensor
    top_log_probs: Tensor | None


def default_tile(device: torch.device) -> Tile:
    """The tile that was measured to be fast (CPU) or is sized for few, large kernels (elsewhere)."""
    return CPU_TILE if device.type == "cpu" else GPU_TILE


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    top_ids: Tensor | None = None,
    temperature: float = 1.0,
    tile: Tile | None = None,
) -> LogProbs:
    """What a linear head says about each token, without its (M, V) logits.

    Matrix products run in the autocast type where autocast is on; the log-sum-exp, and with it every result, is in
    float32 at least. Gradients flow to `hidden`, `weight` and `bias`, and only from `log_probs`.

    Args:
        hidden: (M, d) hidden states, of valid tokens only: nothing here knows of padding.
        weight: (V, d); the embedding itself where the two are tied.
        bias: (V,) or None.
        targets: (M,) int64, the tokens whose log-probs are asked for.
        top_ids: (M, K) int64, further tokens at each position; None without any.
        tile: tokens and vocabulary entries computed at a time; results depend on it by rounding only.
    """
    wanted = (targets[:, None] if top_ids is None else torch.cat([targets[:, None], top_ids], 1)).contiguous()
    size = default_tile(hidden.device) if tile is None else tile
    log_probs, entropy, top = _TokenLogProbs.apply(hidden, weight, bias, wanted, temperature, size)
    return LogProbs(log_probs, entropy, None if top_ids is None else top)


def _tiles(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tile: Tile
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """(rows, columns, those columns' weights, (tokens, entries) logits before the temperature), in hidden's type."""
    rows, columns = tile
    for v in range(0, len(weight), columns):
        part = slice(v, v + columns)
        own = weight[part].to(hidden.dtype)
        shift = None if bias is None else bias[part].to(hidden.dtype)
        for m in range(0, len(hidden), rows):
            chunk = slice(m, m + rows)
            yield chunk, part, own, nn.functional.linear(hidden[chunk], own, shift)


def _passes(hidden: Tensor, full: torch.dtype) -> tuple[Callable[..., None], Callable[..., Tensor]]:
    """`fold` and `softmax_`, or the kernels that take their place."""
    if not kernels.usable(hidden) or full != torch.float32:
        return fold, softmax_
    from minicppo.kernels import lm_head  # Triton: not everywhere

    return lm_head.fold, lm_head.softmax_


def fold(
    z: Tensor, wanted: Tensor, first: int, scale: float, top: Tensor, total: Tensor, moment: Tensor, picked: Tensor
) -> None:
    """Fold a tile (M, N) of raw logits, of the vocabulary from `first` on, into what is known of M tokens, in place.

    With z at the temperature (times `scale`): top (M,), the largest z so far; total, the sum of exp(z - top); moment,
    that of exp(z - top) (z - top); picked (M, K), z of the `wanted` (M, K) tokens.
    """
    z = _scaled(z, scale, top.dtype)
    before = top.clone()
    torch.maximum(top, z.amax(1), out=top)
    place, inside = _place(wanted, first, z.shape[1])
    picked.copy_(torch.where(inside, z.gather(1, place), picked))
    e = z.sub_(top[:, None]).exp()
    if first:  # what was summed before is relative to an older maximum
        fall = before - top
        moment.add_(total * fall).mul_(fall.exp())
        total.mul_(fall.exp())
    total += e.sum(1)
    moment += torch.linalg.vecdot(e, z)


def softmax_(z: Tensor, lse: Tensor, targets: Tensor, first: int, scale: float) -> Tensor:
    """The probabilities exp(scale z - lse) of a tile (M, N) of raw logits, 0 for each row's target; overwrites z."""
    p = _scaled(z, scale, lse.dtype).sub_(lse[:, None]).exp_()
    place, inside = _place(targets[:, None], first, z.shape[1])
    return p.scatter_(1, place, p.gather(1, place).masked_fill_(inside, 0)).to(z.dtype)


def _scaled(z: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    z = z.to(dtype)
    return z if scale == 1 else z.mul_(scale)


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor, temperature: float, tile: Tile
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        full = torch.promote_types(dtype, torch.float32)
        with torch.autocast(device, enabled=False):
            fold_in = _passes(hidden, full)[0]
            top = hidden.new_full((len(hidden),), -torch.inf, dtype=full)  # max z so far
            total = torch.zeros_like(top)  # sum of exp(z - top)
            moment = torch.zeros_like(top)  # sum of exp(z - top) (z - top)
            picked = top.new_zeros(wanted.shape)
            for m, columns, _, z in _tiles(hidden.to(dtype), weight, bias, tile):
                fold_in(z, wanted[m], columns.start, 1 / temperature, top[m], total[m], moment[m], picked[m])
            log_total = total.log()
            picked -= (top + log_total)[:, None]
        log_probs, top_log_probs, entropy = picked[:, 0].clone(), picked[:, 1:], log_total - moment / total
        ctx.save_for_backward(hidden, weight, bias, wanted[:, 0].clone(), log_probs, top + log_total)
        ctx.temperature, ctx.tile, ctx.types = temperature, tile, (dtype, full)
        ctx.mark_non_differentiable(entropy, top_log_probs)
        return log_probs, entropy, top_log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """-g p goes through the tiles without the target's own entry, whose 1 - p is taken apart: it may be tiny."""
        hidden, weight, bias, targets, log_probs, lse = ctx.saved_tensors
        dtype, full = ctx.types
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, to_p = hidden.to(dtype), _passes(hidden, full)[1]
            slope = (grad / ctx.temperature)[:, None]  # (M, 1) d loss / d logit, before onehot - p
            own = slope * -torch.expm1(log_probs)[:, None]
            scaled = (slope * inputs).to(dtype)
            grad_hidden, grad_weight, grad_bias = (
                torch.zeros_like(x, dtype=full) if asked else None
                for x, asked in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
            )
            for rows, columns, part, z in _tiles(inputs, weight, bias, ctx.tile):
                p = to_p(z, lse[rows], targets[rows], columns.start, 1 / ctx.temperature)
                if grad_bias is not None:
                    grad_bias[columns] -= slope[rows, 0] @ p.to(full)
                if grad_hidden is not None:
                    _add_product(grad_hidden[rows], p, part)
                if grad_weight is not None:
                    _add_product(grad_weight[columns], p.T, scaled[rows], -1)
                del p, z  # before there is another tile
            if grad_hidden is not None:
                grad_hidden = grad_hidden.mul_(-slope).add_(own * weight[targets]).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight = grad_weight.index_add_(0, targets, own * inputs).to(weight.dtype)
            if grad_bias is not None:
                grad_bias = grad_bias.index_add_(0, targets, own[:, 0]).to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _place(ids: Tensor, first: int, size: int) -> tuple[Tensor, Tensor]:
    """Where each id is in the tile (any place if outside), and whether it is inside. Asks the GPU nothing."""
    place = ids - first
    return place.clamp(0, size - 1), (place >= 0) & (place < size)


def _add_product(into: Tensor, a: Tensor, b: Tensor, sign: int = 1) -> None:
    """into += sign a @ b, summed in the type of `into`."""
    if a.dtype == into.dtype:
        into.addmm_(a, b, alpha=sign)
    elif into.is_cuda and hasattr(torch.ops.aten.addmm, "dtype_out"):  # torch >= 2.8
        torch.addmm(into, a, b, out_dtype=into.dtype, alpha=sign, out=into)
    else:
        into.add_(a @ b, alpha=sign)


_LINEAR: WeakKeyDictionary[PreTrainedModel, tuple[nn.Module, bool]] = WeakKeyDictionary()  # of which head it was found


def linear_head(model: PreTrainedModel) -> nn.Linear | None:
    """The model's head, if its logits are exactly that linear layer of its base model's last hidden states.

    Some models cap or scale their logits (Gemma 2, Cohere, Granite), and the list grows. So the model is asked, once a
    head: with its base model's states and its head's output replaced by ramps, does the head see the one, and does it
    return the other? A head with hooks is more than its weights.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks:
        return None
    if model not in _LINEAR or _LINEAR[model][0] is not head:
        _LINEAR[model] = head, model.base_model is not model and _passes_through(model, head)
    return head if _LINEAR[model][1] else None


@torch.no_grad()
def _passes_through(model: PreTrainedModel, head: nn.Linear) -> bool:
    seen: list[Tensor] = []
    ids = torch.arange(1, 5, device=model.device)[None] % head.out_features

    def ramp(width: int) -> Tensor:  # never zero: what scales zeros goes unnoticed
        return torch.linspace(-90, 91, 4 * width, device=model.device).to(head.weight.dtype).view(1, 4, -1)

    def after_base(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0].copy_(ramp(output[0].shape[-1])))

    def after_head(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        seen.append(inputs[0])
        return ramp(head.out_features)

    hooks = [model.base_model.register_forward_hook(after_base), head.register_forward_hook(after_head)]
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    around = len(seen) != 2  # some heads go around their base model (OPT)
    return not around and torch.equal(logits.to(head.weight.dtype), ramp(head.out_features)) and torch.equal(*seen)
