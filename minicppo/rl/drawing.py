"""Drawing tokens from logits with random numbers fixed in advance."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128  # tokens summed at a time


def draw(logits: Tensor, uniforms: Tensor, top_p: float = 1.0) -> Tensor:
    """Tokens (B,) by inverse CDF: the first whose cumulative probability exceeds the row's uniform number.

    The sums are float64, for vocabularies are large and every token must keep its probability; but the running sum is
    taken over blocks of tokens, and within one block, so that only one float32 pass reads the whole row.

    Args:
        logits: (B, V) float32. uniforms: (B,) float64 in [0, 1).
        top_p: keep the fewest likeliest tokens that hold this much probability.
    """
    p = (logits - logits.amax(-1, keepdim=True)).exp()
    if top_p < 1:
        p = p * _nucleus(p, top_p)
    blocks = F.pad(p, (0, -p.shape[1] % BLOCK)).view(len(p), -1, BLOCK)
    totals = blocks.sum(-1, dtype=torch.float64)
    block, rest = _locate(totals, uniforms * totals.sum(-1))
    token, _ = _locate(blocks[torch.arange(len(p), device=p.device), block].double(), rest)
    return (block * BLOCK + token).clamp(max=p.shape[1] - 1)  # logits that are no numbers: sample() tells


def _locate(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) first index at which the running sum of weights (B, M) exceeds the target (B,), and what is left of it.

    Its weight is never zero: rounding must not push the target out of [0, total). Of weights that are not
    numbers it is the last.
    """
    running = weights.cumsum(-1)
    target = target[:, None].clamp(min=0).minimum(running[:, -1:].nextafter(target.new_zeros(1)))
    index = torch.searchsorted(running, target, right=True).clamp(max=weights.shape[1] - 1)
    return index[:, 0], (target - running.gather(1, index) + weights.gather(1, index))[:, 0]


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """(B, V) bool: the fewest likeliest tokens whose probability reaches top_p."""
    ordered, index = p.sort(-1, descending=True)
    running = ordered.cumsum(-1, dtype=torch.float64)
    return torch.zeros_like(p, dtype=torch.bool).scatter(1, index, running - ordered < top_p * running[:, -1:])
