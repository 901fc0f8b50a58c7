"""Whether sampler and scorer agree: unless pi / mu of a policy with itself is 1, no ratio of a run means anything."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Rollout

ROWS, TOKENS = 4, 512  # responses that are looked at, and tokens of each
EXACT = 0.01  # most |log pi - log mu| of a token in float32; measured: 1e-4 at most
ROUNDED = 0.2  # most mean of it where one is in bfloat16, which single tokens exceed; measured: 0.04 at most

_AGREED: WeakKeyDictionary[PreTrainedModel, set[object]] = WeakKeyDictionary()


@torch.no_grad()
def require_agreement(
    scorer: Policy, sampler: Policy, rollout: Rollout, temperature: float, log_probs: Tensor | None = None
) -> None:
    """At the first rollout of a model: raise ValueError where the scorer's log-probs are not those of the sampler.

    The policies share weights, not always precision. log_probs: (N, T), the scorer's; None: some rows are scored, and
    no random number is drawn.
    """
    key = (scorer.autocast, sampler.autocast, log_probs is None)
    if key in (agreed := _AGREED.setdefault(scorer.model, set())):
        return
    if log_probs is None:
        some = torch.linspace(0, len(rollout) - 1, min(ROWS, len(rollout)), device=rollout.log_probs.device).long()
        rollout = rollout.rows(some).by_column(lambda name, x: x if name.startswith("prompt") else x[:, :TOKENS]).trim()
        log_probs = response_log_probs(scorer, rollout, temperature).log_probs
    gaps, exact = (log_probs - rollout.log_probs)[rollout.response_mask].abs(), key[:2] == (None, None)
    gap, most = float(gaps.max() if exact else gaps.mean()), (EXACT if exact else ROUNDED) / min(temperature, 1)
    if not gap <= most:
        raise ValueError(
            f"sampler and scorer disagree on {type(scorer.model).__name__}: log-probs of the same tokens by the same "
            f"weights differ by {gap:.2g}, where rounding makes {most:.2g} at most, so that no ratio means anything. "
            "Way out: the tested transformers (constraints.txt), train.autocast=off, or another model"
        )
    agreed.add(key)
