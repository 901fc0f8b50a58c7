"""The current policy's log-probs of a rollout's tokens, in one forward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minicppo.rl.policy import Policy
from minicppo.rl.sampling import Keep, Rollout


@dataclass(frozen=True)
class Scores:
    """What the policy being optimised (pi) says about the sampled tokens.

    Attributes:
        log_probs: (N, T) float32 with gradient, log pi of each sampled token.
        entropy: (N, T) float32, detached, of each whole distribution, in nats.
        cell_log_probs: (N, T, K) float32, detached, log pi of the rollout's cells; None without any.
    """

    log_probs: Tensor
    entropy: Tensor
    cell_log_probs: Tensor | None


def score(policy: Policy, rollout: Rollout, temperature: float, keep: Keep = "none") -> Scores:
    """Log-probs at the temperature of the rollout, in float32 also under autocast.

    Values in the padding are finite and meaningless. `keep` must be the one that the rollout was sampled with.

    Raises:
        ValueError: the rollout carries no such cells.
    """
    if keep == "topk" and rollout.cell_ids is None:
        raise ValueError("keep='topk' needs a rollout sampled with keep='topk': it carries no token ids to compare on")
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)[:, :-1]
    mask = positions = None
    if not bool(rollout.prompt_mask.all()):  # padding on the right alone is harmless under causal attention
        mask = torch.cat([rollout.prompt_mask, rollout.response_mask], 1)[:, :-1]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
    with policy.precision():
        logits = policy.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=rollout.response_ids.shape[1],
        ).logits
    log_p = (logits.float() / temperature).log_softmax(-1)  # (N, T, V)
    log_probs = log_p.gather(2, rollout.response_ids[..., None])[..., 0]
    detached = log_p.detach()
    entropy = -(detached.exp() * detached).sum(-1)
    cells: Tensor | None = None
    if keep == "full":
        cells = detached
    elif keep == "topk":
        assert rollout.cell_ids is not None
        cells = detached.gather(2, rollout.cell_ids)
    return Scores(log_probs, entropy, cells)
