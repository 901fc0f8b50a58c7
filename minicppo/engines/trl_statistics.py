"""What the log says of an update, over all its tokens; mismatch of sampler and scorer is kept from drift, and bounded.

mismatch/*  of responses scored by the very weights that sampled them, before any update: what the two disagree on
drift, ...  of responses that an update has passed since: what the policy moved, and the mismatch in it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minicppo.rl.rollout import widen
from minicppo.rules import TokenBatch, TokenWeights, diagnostics
from minicppo.rules.rows import join, map_rows, take

DRIFT = ("drift", "div/", "kl/", "ratio/", "prefix/")  # what mixes mismatch and drift unless kept apart
# Mean |log pi - log mu| of a first update above which something is wrong. Measured with our sampler, 135 million
# parameters: 3e-6 in float32, 4e-3 in float16, 3e-2 in bfloat16; engines apart, as vLLM is, may differ by twice that.
MISMATCH_LIMITS = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Responses:
    """Responses of one update as the method saw them, (B, T) padded on the right, and its verdict.

    batch: both policies' log-probs, advantages and mask, without the top tokens. out: token weights and reasons.
    ids: the sampled tokens. rewards: summed over reward functions by their weights; NaN where unknown. group: the
    number of the prompt in its rollout, -1 where unknown. fresh: scored by the weights that sampled them. padded: is
    there padding before the prompt?
    """

    batch: TokenBatch
    out: TokenWeights
    ids: Int[Tensor, "B T"]
    rewards: Float[Tensor, " B"]
    group: Int[Tensor, " B"]
    fresh: Bool[Tensor, " B"]
    padded: Bool[Tensor, " B"]


def joined(parts: Sequence[Responses]) -> Responses:
    """Micro-batches as one, as wide as the widest."""
    width = max(part.ids.shape[1] for part in parts)
    return join([map_rows(lambda x: widen(x, width) if x.ndim > 1 else x, part) for part in parts])


def statistics(update: Responses) -> dict[str, float]:
    """`drift` (mean |log rho|) and `minicppo.rules.diagnostics` of all tokens; under `mismatch/` of fresh ones."""
    rows = _rows(update)
    found = {key: value for key, value in rows.items() if not key.startswith(DRIFT)}
    for prefix, which in (("mismatch/", update.fresh), ("", ~update.fresh)):
        if bool(which.any()):
            some = rows if bool(which.all()) else _rows(take(update, which))
            found |= {prefix + key: value for key, value in some.items() if key.startswith(DRIFT)}
    return found


def _rows(update: Responses) -> dict[str, float]:
    batch = update.batch
    drift = (batch.log_ratio.abs() * batch.mask).sum() / batch.mask.sum().clamp(min=1)
    return {"drift": float(drift), **diagnostics(batch, update.out)}


def summarise(key: str, values: list[float]) -> float:
    """One number of several updates: the extreme of an extreme, else the mean; NaN is left out."""
    present = [value for value in values if not math.isnan(value)]
    if not present:
        return math.nan
    extreme = {"max": max, "min": min}.get(key[-3:])
    return extreme(present) if extreme else sum(present) / len(present)


def wrong_anchor(update: Responses, limit: float) -> str | None:
    """Where fresh responses are more than `limit` a token apart on average: by how much, which, and why that may be."""
    if not bool(update.fresh.any()):
        return None
    apart = (update.batch.log_ratio.abs() * update.batch.mask) * update.fresh[:, None]
    count = (update.batch.mask & update.fresh[:, None]).sum(1)
    mean, each = float(apart.sum() / count.sum().clamp(min=1)), apart.sum(1) / count.clamp(min=1)
    if mean <= limit:
        return None
    worst = int(each.argmax())
    return (
        f"log pi and log mu are {mean:.2g} a token apart (more than {limit:g}) while the policy is still the one that "
        f"sampled, most in response {worst} of the update ({float(each[worst]):.2g}): the ratios are not those of the "
        f"policies. Likely: {likely_cause(take(update, update.fresh))}. Way out: mend it; or mismatch_limit=N, where "
        "the rollout is another policy's on purpose"
    )


def likely_cause(update: Responses) -> str:
    """What a difference between sampler and scorer looks like, from the plainest sign to none."""
    batch, mask = update.batch, update.batch.mask
    apart, zero = batch.log_ratio.abs() * mask, (batch.rollout_log_probs == 0) & (batch.log_probs < -0.1) & mask
    each = apart.sum(1) / mask.sum(1).clamp(min=1)
    if zero.sum() > 0.01 * mask.sum():
        return "log-probs of 0, as missing ones are filled up with"
    if 0 < update.padded.sum() < len(each) and each[update.padded].mean() > 10 * each[~update.padded].mean():
        return "the prompts with padding before them alone: positions or padding are taken in two ways"
    first, later = apart[:, 0][mask[:, 0]], apart[:, 1:][mask[:, 1:]]
    if len(first) and len(later) and later.mean() > 10 * first.mean():
        return "from the second token on: virtual tokens, a cache or a template that only one of the two reads"
    if (batch.log_ratio[mask] < 0).float().mean() > 0.9:
        return "mu is surer of nearly every token: top-p, top-k, a grammar or a lower temperature while sampling"
    return "another temperature, weights that the sampler did not get, or something random while scoring"
