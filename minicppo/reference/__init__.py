"""The rules of the paper as loops a student can read: NumPy and the standard library, one response at a time.

Nothing here is fast and nothing here is shared with `minicppo.rules`; the two meet only in the tests. The functions
take plain sequences and do arithmetic with `+ - * /` and comparisons, so they also run in `fractions.Fraction`, where
a tie is a tie.
"""

from minicppo.reference.divergence import (
    coarsen,
    kl_divergence,
    predicted_drift,
    topk_partition,
    total_variation,
)
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

__all__ = [
    "LOOPS",
    "Response",
    "TokenStep",
    "aggregate",
    "budget_gate",
    "coarsen",
    "cppo_steps",
    "cppo_token_mask",
    "dynamic_budget",
    "group_advantages",
    "kl_divergence",
    "linear_weights",
    "loop",
    "policy_loss",
    "predicted_drift",
    "quantile",
    "soft_gate",
    "topk_partition",
    "total_variation",
]
