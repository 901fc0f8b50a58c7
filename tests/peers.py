"""What peers are compared on: a ragged batch under three policies, and the gradient of our loss."""

import torch
from torch import Tensor

from minicppo import rules


def ragged(scale: float, rows: int = 6, width: int = 24, seed: int = 0) -> rules.TokenBatch:
    """Responses of 1 to `width` tokens whose log-ratios, of pi_old to mu and of pi to pi_old, are about `scale`."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(rows, width, generator=generator, dtype=torch.float64)

    mu = -normal().abs() - 3 * scale
    old = (mu + scale * normal()).clamp(max=0)
    pi = (old + scale * normal()).clamp(max=0)
    lengths = torch.tensor([width, 1, 7, width - 3, 12, 16])[:rows]
    valid = torch.arange(width) < lengths[:, None]
    A = torch.tensor([1.0, -0.5, 0.25, -1.0, 0.75, -0.25], dtype=torch.float64)[:rows]
    return rules.TokenBatch(pi, mu, A, valid, old_log_probs=old)


def tokens_of_gradient(batch: rules.TokenBatch, out: rules.TokenWeights, mode: str) -> Tensor:
    """(B, T) d loss / d log pi of our loss."""

    def loss(x: Tensor) -> Tensor:
        return rules.policy_loss(x, out.weight.double(), batch.advantages, batch.mask, loss_agg_mode=mode, horizon=24)

    return torch.func.grad(loss)(batch.log_probs)
