"""Gates in the place of CPPO's hard mask: how much of a token's gradient passes."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from minicppo.rules.mask import verdicts
from minicppo.rules.outputs import CPPOMask, Reason

GATES = ("hard", "reciprocal", "sigmoid", "budget")


def gate_values(mask: CPPOMask, gate: str) -> Float[Tensor, "B T"]:
    """How much of each token passes, in [0, 1]; tokens that move toward mu pass whole.

    "hard": Algorithm 1. "reciprocal": min(1, 1/x), x = max(Z_t / delta, S_t / (delta + delta_b W_{t-1})), App. C.1.
    "sigmoid" (ours, after SAPO): 4 p (1 - p) / x with p = sigmoid(x - 1) beyond x = 1.
    "budget" (ours): min(1, c_t / Z_t), the mask's c_t being that of `charge_what_passes`.
    """
    if gate == "hard":
        return mask.token_mask.to(mask.weighted_divergence)
    Z = mask.weighted_divergence
    if gate == "budget":
        cut = mask.threshold / Z.clamp(min=torch.finfo(Z.dtype).tiny)
    else:  # S_t / (delta + delta_b W_{t-1}) with both sides from the slack: S_t = limit - slack + Z_t
        limit = _prefix_limit(mask)
        spent = limit - mask.slack + Z
        x = torch.maximum(Z / mask.delta, torch.where(torch.isinf(limit), 0.0, spent / limit)).clamp(min=1.0)
        p, q = torch.sigmoid(x - 1), torch.sigmoid(1 - x)  # q, not 1 - p, which is 0 from x = 38 on
        cut = 1 / x if gate == "reciprocal" else 4 * p * q / x
    # The hard decision is exact, toward tokens included; the quotient may round across the limit.
    return torch.where(mask.token_mask, 1.0, cut)


def _prefix_limit(mask: CPPOMask) -> Float[Tensor, "B T"]:
    """delta + delta_b W_{t-1}, infinite without a budget."""
    if mask.delta_b is None:
        return torch.full_like(mask.weighted_divergence, math.inf)
    before = torch.zeros_like(mask.position_weight)
    torch.cumsum(mask.position_weight[:, :-1], dim=1, out=before[:, 1:])
    return mask.delta + mask.delta_b[:, None] * before


def charge_what_passes(mask: CPPOMask) -> CPPOMask:
    """The mask whose prefix is charged g_t Z_t, g_t = min(1, c_t / Z_t), rather than Z_t (ours): no c_t is below 0.

    What the gate lets pass of every token then stays within delta + delta_b W_{t-1}. The charged sum obeys
    s_t = min(s_{t-1} + min(Z_t, delta), delta + delta_b W_{t-1}), a scan that is one prefix sum and one prefix minimum.
    Tokens toward mu are charged like the others; that their weight is 1 all the same is the mask's clause.
    """
    limit = _prefix_limit(mask)
    total = mask.weighted_divergence.clamp(max=mask.delta).cumsum(1)
    spent = total + (limit - total).cummin(1).values.clamp(max=0.0)
    slack = limit.clone()
    slack[:, 1:] -= spent[:, :-1]
    slack.clamp_(min=0.0)
    free = (mask.reason == Reason.PAD) | (mask.reason == Reason.TOWARD)
    reason = torch.where(free, mask.reason, verdicts(mask.weighted_divergence, slack, mask.delta))
    threshold = slack.clamp_(max=mask.delta).masked_fill_(mask.reason == Reason.PAD, 0.0)
    return replace(mask, threshold=threshold, reason=reason)
