"""The current policy's log-probs of a rollout's tokens: no (N, T, V) logits kept, and no token computed in vain.

Rows that share a prompt can share a pass over it, and short responses can leave the company of long ones, whose padding
they would be computed with. Both cost further passes, so `pass_tokens` decides.
"""

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from minicppo.rl import packed
from minicppo.rl.direct import native
from minicppo.rl.lm_head import LogProbs, default_tile, linear_head, token_log_probs
from minicppo.rl.policy import Policy, layer_parameters
from minicppo.rl.rollout import Needs, Rollout, widen
from minicppo.rules import rows

KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer)  # layers that remember nothing else; subclasses may
PASS = {"cpu": 1.5e8, "cuda": 5e12}  # tokens x parameters that a pass costs: measured; on a GPU, starting its kernels
FEW = 32  # tokens that a pass costs whatever the model: its weights are read again
ROWS, TOKENS = 4, 512  # responses whose agreement is looked at, and tokens of each
EXACT = 0.01  # most |log pi - log mu| of a token in float32; measured: 1e-4 at most
ROUNDED = 0.2  # most mean of it where one is in bfloat16, which single tokens exceed; measured: 0.04 at most

_AGREED: WeakKeyDictionary[PreTrainedModel, set[object]] = WeakKeyDictionary()


def response_log_probs(policy: Policy, rollout: Rollout, temperature: float, needs: Needs = "log_probs") -> LogProbs:
    """What pi says of a rollout's tokens, (N, T), at the rollout's temperature, in float32 also under autocast.

    The top tokens are the rollout's, or the whole vocabulary; `needs` must be what it was sampled with, or less: else a
    ValueError. Values in the padding are finite and meaningless. The logits are made whole only where needs="full" asks
    for them, where they are small, and for models whose logits are more than a linear layer of the hidden states.
    """
    if needs == "topk" and rollout.top_ids is None:
        raise ValueError("needs='topk' needs a rollout sampled with needs='topk': it has no token ids to compare on")
    with policy.precision():
        functions = linear_head(policy.model) and native(policy.model)
    parts = [] if functions else _by_length(policy, rollout)  # C computes no padding
    if len(parts) < 2:
        return _compute(functions, policy, rollout, temperature, needs)
    found = [_compute(functions, policy, rollout.rows(index).trim(), temperature, needs) for index in parts]
    wide = partial(widen, width=rollout.response_ids.shape[1])
    return rows.take(rows.join([rows.map_rows(wide, each) for each in found]), torch.cat(parts).argsort())


def pass_tokens(model: PreTrainedModel) -> float:
    """What one more pass costs, as so many tokens more: a tiny policy makes few passes, a large one saves tokens."""
    return FEW + PASS.get(model.device.type, PASS["cuda"]) / layer_parameters(model)


def _runs(rollout: Rollout) -> Tensor:
    """(N,) bool: the first row of each run of rows with one prompt."""
    prompt = rollout.prompt_ids.masked_fill(~rollout.prompt_mask, -1)
    first = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
    first[1:] = (prompt[1:] != prompt[:-1]).any(1)
    return first


def _cost(n: int, runs: int, prompt: int, width: int, one_pass: float) -> tuple[float, bool]:
    """What a pass over n rows costs in tokens, and whether to read each prompt once."""
    whole, once = n * (prompt + width) + one_pass, runs * prompt + n * width + 2 * one_pass
    return min(whole, once), once < whole


def _by_length(policy: Policy, rollout: Rollout) -> list[Tensor]:
    """Indices of the rows to compute together: while it pays, those at most half as long as the longest go on alone."""
    prompt, one_pass = rollout.prompt_ids.shape[1], pass_tokens(policy.model)
    rest = torch.arange(len(rollout), device=rollout.log_probs.device)
    whole = len(rollout) * (prompt + rollout.response_ids.shape[1])
    if one_pass >= whole:  # there is less than a pass to save
        return [rest]
    lengths, run = rollout.response_mask.sum(1).clamp(min=1), _runs(rollout).cumsum(0)

    def cost(index: Tensor) -> float:
        width = int(lengths[index].max()) - 1
        return _cost(len(index), len(run[index].unique()), prompt, width, one_pass)[0]

    parts: list[Tensor] = []
    while True:
        short = 2 * lengths[rest] <= lengths[rest].max()
        if not bool(short.any()) or cost(rest[~short]) + cost(rest[short]) >= cost(rest):
            return [*parts, rest]
        parts.append(rest[~short])
        rest = rest[short]


def _compute(functions: Any, policy: Policy, rollout: Rollout, temperature: float, needs: Needs) -> LogProbs:
    """`response_log_probs` of rows that are computed together."""
    head, ids, valid = linear_head(policy.model), rollout.response_ids, rollout.response_mask
    top_ids = rollout.top_ids if needs == "topk" else None
    picked = None if top_ids is None else top_ids[valid]
    with policy.precision():
        if head is None:
            logits = policy.model(**_inputs(rollout), logits_to_keep=valid.shape[1]).logits
        else:
            if functions:
                hidden = packed.hidden_states(functions, policy.model, rollout, _runs(rollout))
            else:
                hidden = hidden_states(policy, rollout)
            tokens, columns = default_tile(hidden.device)
            if needs != "full" and valid.numel() * head.out_features > tokens * columns:
                biases = [b for b in (head.bias, policy.barred(head.out_features)) if b is not None]
                bias = torch.stack(biases).sum(0) if biases else None
                hidden = hidden if functions else hidden[valid]
                return _spread(token_log_probs(hidden, head.weight, bias, ids[valid], picked, temperature), valid)
            logits = head(hidden)
    bar = policy.barred(logits.shape[-1])
    logits = logits if bar is None else logits.float() + bar
    if functions:
        return _spread(_from_logits(logits, ids[valid], picked, temperature, needs), valid)
    return _from_logits(logits, ids, top_ids, temperature, needs)


def hidden_states(policy: Policy, rollout: Rollout) -> Tensor:
    """(N, T, d) last hidden states from which each response token is predicted.

    Consecutive rows with one prompt share a single pass over it, gradient included, where that pays. A model that
    remembers anything but keys and values reads every row whole.
    """
    n, width = rollout.response_ids.shape
    one_pass, prompt = pass_tokens(policy.model), rollout.prompt_ids.shape[1]
    if one_pass < n * prompt:  # else there is less to save
        runs = _runs(rollout).nonzero()[:, 0]
        pays = _cost(n, len(runs), prompt, width - 1, one_pass)[1]
        if pays and (hidden := _read_prompts_once(policy, rollout, runs)) is not None:
            return hidden
    return policy.model.base_model(**_inputs(rollout)).last_hidden_state[:, -width:]


def _read_prompts_once(policy: Policy, rollout: Rollout, runs: Tensor) -> Tensor | None:
    """The prompts that start at rows `runs`, then all responses over their keys and values; None if there are none."""
    base, n = policy.model.base_model, len(rollout)
    mask = rollout.prompt_mask
    padded = not bool(mask.all())
    cache = DynamicCache(config=policy.model.config)
    if not all(type(layer) in KEYS_AND_VALUES for layer in cache.layers):
        return None
    hidden = base(
        input_ids=rollout.prompt_ids[runs],
        attention_mask=mask[runs] if padded else None,
        position_ids=(mask[runs].cumsum(1) - 1).clamp(min=0) if padded else None,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1:]
    if cache.get_seq_length() != mask.shape[1]:
        return None
    counts = torch.diff(runs, append=runs.new_tensor([n]))
    cache.batch_repeat_interleave(counts)
    hidden = hidden.repeat_interleave(counts, 0)
    if rollout.response_ids.shape[1] == 1:
        return hidden
    ids = rollout.response_ids[:, :-1]
    after = base(
        input_ids=ids,
        attention_mask=torch.cat([mask, rollout.response_mask[:, :-1]], 1) if padded else None,
        position_ids=mask.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=ids.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([hidden, after], 1)


def _inputs(rollout: Rollout) -> dict[str, Any]:
    """Of a pass over whole rows, without the last token, which predicts nothing."""
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)[:, :-1]
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if bool(rollout.prompt_mask.all()):  # padding on the right alone is harmless under causal attention
        return inputs
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask], 1)[:, :-1]
    return inputs | {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def _spread(found: LogProbs, valid: Tensor) -> LogProbs:
    """From one a token of the mask (N, T) to (N, T, ...), 0 in the padding."""

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(*valid.shape, *values.shape[1:]).index_put((valid,), values)

    result: LogProbs = rows.map_rows(spread, found)
    return result


def _from_logits(logits: Tensor, ids: Tensor, top_ids: Tensor | None, temperature: float, needs: Needs) -> LogProbs:
    """The plain way, from whole logits (..., V) of tokens (...)."""
    log_p = (logits.float() / temperature).log_softmax(-1)
    log_probs = log_p.gather(-1, ids[..., None])[..., 0]
    detached = log_p.detach()
    entropy = -(detached.exp() * detached).sum(-1)
    top = detached if needs == "full" else None
    if top_ids is not None:
        top = detached.gather(-1, top_ids)
    return LogProbs(log_probs, entropy, top)


@torch.no_grad()
def require_agreement(
    scorer: Policy, sampler: Policy, rollout: Rollout, temperature: float, log_probs: Tensor | None = None
) -> None:
    """At the first rollout of a model: raise ValueError where the scorer's log-probs are not those of the sampler.

    Unless pi / mu of a policy with itself is 1, no ratio of a run means anything. The two share weights, not always
    precision. log_probs: (N, T), the scorer's; None: some rows are scored, and no random number is drawn.
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
