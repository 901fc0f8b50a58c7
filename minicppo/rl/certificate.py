"""The live certificate of improvement of `minicppo.bounds.certificate`, fed from a rollout and the updated policy."""

import numpy as np
import torch

from minicppo.bounds.certificate import certify
from minicppo.rl.config import RunConfig
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Needs, Rollout
from minicppo.rules import token_divergence


@torch.no_grad()
def certificate_row(policy: Policy, rollout: Rollout, config: RunConfig) -> dict[str, float]:
    """Keys `certificate/*` for the policy as it is now against the one that sampled.

    With stale rollouts that spans the updates since those weights, not one iteration's alone. Every response counts,
    also those of groups that the loss would drop. The divergence is the exact TV where the rollout carries whole
    distributions; Binary and Top-K lie below it and would void the bound, so without them the ratios alone are used.
    """
    log_probs, divergences = [], []
    needs: Needs = "full" if rollout.needs == "full" else "log_probs"
    for part in rollout.split(config.rows_per_forward):
        found = response_log_probs(policy, part, config.rollout.temperature, needs)
        log_probs.append(found.log_probs)
        if found.top_log_probs is not None:
            divergences.append(token_divergence(part.token_batch(found.log_probs, found.top_log_probs), "exact_tv"))
    inputs = torch.cat(log_probs), rollout.log_probs, rollout.rewards.float(), rollout.response_mask
    pi, mu, rewards, mask = (x.cpu().numpy() for x in inputs)
    groups = np.arange(len(rollout)) // config.rollout.group_size
    return certify(pi, mu, rewards, mask, groups, torch.cat(divergences).cpu().numpy() if divergences else None).rows()
