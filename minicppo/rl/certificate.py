"""The live certificate of improvement of `minicppo.bounds.certificate`, fed from a rollout and the updated policy."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minicppo.bounds.certificate import certify
from minicppo.rl.log_probs import score
from minicppo.rl.policy import Policy
from minicppo.rl.sampling import Keep, Rollout
from minicppo.rules import TokenBatch, TopLogProbs, token_divergence


@dataclass(frozen=True)
class Judged:
    """A whole rollout with its (N,) rewards, in groups of `group_size` consecutive rows."""

    rollout: Rollout
    rewards: Tensor
    group_size: int


@torch.no_grad()
def certificate_row(policy: Policy, judged: Judged, temperature: float, keep: Keep, rows: int) -> dict[str, float]:
    """Keys `certificate/*` for the policy as it is now against the one that sampled, `rows` responses per forward pass.

    Every response counts, also those of groups that the loss dropped. The divergence is the exact TV where the rollout
    carries whole distributions (keep="full"); Binary and Top-K lie below it and would void the bound, so without whole
    distributions the ratios alone are used.
    """
    rollout = judged.rollout
    log_probs, divergences = [], []
    for part in torch.arange(len(rollout), device=rollout.log_probs.device).split(rows):
        piece = rollout.rows(part)
        scores = score(policy, piece, temperature, "full" if keep == "full" else "none")
        log_probs.append(scores.log_probs)
        if scores.cell_log_probs is not None and piece.cell_log_probs is not None:
            top = TopLogProbs(scores.cell_log_probs, piece.cell_log_probs, piece.response_ids)
            batch = TokenBatch(scores.log_probs, piece.log_probs, judged.rewards[part], piece.response_mask, top)
            divergences.append(token_divergence(batch, "exact_tv"))
    certificate = certify(
        torch.cat(log_probs).cpu().numpy(),
        rollout.log_probs.cpu().numpy(),
        judged.rewards.cpu().numpy(),
        rollout.response_mask.cpu().numpy(),
        groups=np.arange(len(rollout)) // judged.group_size,
        divergence=torch.cat(divergences).cpu().numpy() if divergences else None,
    )
    return certificate.rows()
