"""The rules of the paper as loops a student can read: NumPy and the standard library, one response at a time.

Nothing here is fast and nothing here is shared with `minicppo.rules`; the two meet only in the tests. The functions
take plain sequences and do arithmetic with `+ - * /` and comparisons, so they also run in `fractions.Fraction`, where
a tie is a tie.
"""

from minicppo.reference.divergence import coarsen, kl_divergence, predicted_drift, topk_partition, total_variation
from minicppo.reference.loss import aggregate, group_advantages, policy_loss
from minicppo.reference.mask import (
    TokenStep,
    budget_gate,
    cppo_steps,
    cppo_token_mask,
    dynamic_budget,
    linear_weights,
    quantile,
    soft_gate,
)
from minicppo.reference.methods import LOOPS, Response, loop

__all__ = ["coarsen", "kl_divergence", "predicted_drift", "topk_partition", "total_variation"]
__all__ += ["TokenStep", "budget_gate", "cppo_steps", "cppo_token_mask", "dynamic_budget"]
__all__ += ["linear_weights", "quantile", "soft_gate"]
__all__ += ["LOOPS", "Response", "aggregate", "group_advantages", "loop", "policy_loss"]
