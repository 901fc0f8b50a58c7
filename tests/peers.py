"""What peers are compared on: a ragged batch under three policies, and the gradient of our loss."""

import torch
from torch import Tensor

from minicppo import rules
from tests.rules.twins import gradient


def ragged(scale: float) -> rules.TokenBatch:
    """Six responses of 1 to 24 tokens whose log-ratios, of pi_old to mu and of pi to pi_old, are about `scale`."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(6, 24, generator=generator, dtype=torch.float64)

    mu = -normal().abs() - 3 * scale
    old = (mu + scale * normal()).clamp(max=0)
    pi = (old + scale * normal()).clamp(max=0)
    valid = torch.arange(24) < torch.tensor([24, 1, 7, 21, 12, 16])[:, None]
    A = torch.tensor([1.0, -0.5, 0.25, -1.0, 0.75, -0.25], dtype=torch.float64)
    return rules.TokenBatch(pi, mu, A, valid, old_log_probs=old)


def tokens_of_gradient(batch: rules.TokenBatch, out: rules.TokenWeights, mode: str) -> Tensor:
    """(B, T) d loss / d log pi of our loss."""

    arguments = batch.log_probs, out.weight.double(), batch.advantages, batch.mask
    return gradient(rules.policy_loss, *arguments, loss_agg_mode=mode, horizon=24)
