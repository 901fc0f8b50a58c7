"""The live certificate of improvement of `minicppo.bounds.certificate`, fed from a rollout and the updated policy."""

import numpy as np
import torch

from minicppo.bounds.certificate import certify
from minicppo.rl.config import RunConfig
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Rollout
from minicppo.rules import token_divergence


@torch.no_grad()
def certificate_row(policy: Policy, rollout: Rollout, config: RunConfig) -> dict[str, float]:
    """Keys `certificate/*` for the policy as it is now against the one that sampled.

    With stale rollouts that spans the updates since those weights, not one iteration's alone. Every response counts,
    also those of groups that the loss would drop. The divergence is the exact TV where the rollout carries whole
    distributions; Binary and Top-K lie below it and would void the bound, so without them the ratios alone are used.
    """
    log_probs, divergences, temperature = [], [], config.rollout.temperature
    for part in rollout.split(config.rows_per_forward):
        found = response_log_probs(policy, part, temperature, "full" if part.needs == "full" else "log_probs")
        log_probs.append(found.log_probs)
        if found.top_log_probs is not None:
            batch = part.token_batch(found.log_probs, found.top_log_probs)
            divergences.append(token_divergence(batch, "exact_tv"))
    certificate = certify(
        torch.cat(log_probs).cpu().numpy(),
        rollout.log_probs.cpu().numpy(),
        rollout.rewards.float().cpu().numpy(),
        rollout.response_mask.cpu().numpy(),
        groups=np.arange(len(rollout)) // config.rollout.group_size,
        divergence=torch.cat(divergences).cpu().numpy() if divergences else None,
    )
    return certificate.rows()
