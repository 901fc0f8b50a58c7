"""The current policy's log-probs of a rollout's tokens: no (N, T, V) logits kept, and no token computed in vain.

Rows that share a prompt can share a pass over it, and short responses can leave the company of long ones, whose padding
they would be computed with. Both cost further passes, so `pass_tokens` decides.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from minicppo.rl.lm_head import default_tile, linear_head, token_scores
from minicppo.rl.policy import Policy, layer_parameters
from minicppo.rl.sampling import Keep, Rollout

KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer)  # layers that remember nothing else; subclasses may
PASS = {"cpu": 1.5e8, "cuda": 5e12}  # tokens x parameters that a pass costs: measured; on a GPU, starting its kernels
FEW = 32  # tokens that a pass costs whatever the model: its weights are read again


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
    The logits are made whole only where keep="full" asks for them, where they are small, and for models whose logits
    are more than a linear layer of the hidden states.

    Raises:
        ValueError: the rollout carries no such cells.
    """
    if keep == "topk" and rollout.cell_ids is None:
        raise ValueError("keep='topk' needs a rollout sampled with keep='topk': it carries no token ids to compare on")
    parts = _by_length(policy, rollout)
    if len(parts) == 1:
        return _score(policy, rollout, temperature, keep)
    found = [_score(policy, rollout.select(rows), temperature, keep) for rows in parts]
    order, width = torch.cat(parts).argsort(), rollout.response_ids.shape[1]

    def joined(values: list[Tensor]) -> Tensor:
        wide = [F.pad(value, (0, 0) * (value.ndim - 2) + (0, width - value.shape[1])) for value in values]
        return torch.cat(wide)[order]

    cells = [scores.cell_log_probs for scores in found if scores.cell_log_probs is not None]
    return Scores(
        joined([scores.log_probs for scores in found]),
        joined([scores.entropy for scores in found]),
        joined(cells) if cells else None,
    )


def pass_tokens(model: PreTrainedModel) -> float:
    """What one more pass costs, as so many tokens more: a tiny policy makes few passes, a large one saves tokens."""
    return FEW + PASS.get(model.device.type, PASS["cuda"]) / layer_parameters(model)


def _runs(rollout: Rollout) -> Tensor:
    """(N,) bool: the first row of each run of rows with one prompt."""
    prompt = rollout.prompt_ids.masked_fill(~rollout.prompt_mask, -1)
    first = torch.ones(len(prompt), dtype=torch.bool, device=prompt.device)
    first[1:] = (prompt[1:] != prompt[:-1]).any(1)
    return first


def _cost(rows: int, runs: int, prompt: int, width: int, one_pass: float) -> tuple[float, bool]:
    """Tokens that scoring takes, passes among them, and whether to read each prompt once."""
    whole, once = rows * (prompt + width) + one_pass, runs * prompt + rows * width + 2 * one_pass
    return min(whole, once), once < whole


def _by_length(policy: Policy, rollout: Rollout) -> list[Tensor]:
    """Indices of the rows to score together: while it pays, those at most half as long as the longest go on alone."""
    prompt, one_pass = rollout.prompt_ids.shape[1], pass_tokens(policy.model)
    rest = torch.arange(len(rollout), device=rollout.log_probs.device)
    if one_pass >= len(rollout) * (prompt + rollout.response_ids.shape[1]):  # more than there is to save
        return [rest]
    lengths, run = rollout.response_mask.sum(1).clamp(min=1), _runs(rollout).cumsum(0)

    def cost(rows: Tensor) -> float:
        width = int(lengths[rows].max()) - 1
        return _cost(len(rows), len(run[rows].unique()), prompt, width, one_pass)[0]

    parts: list[Tensor] = []
    while True:
        short = 2 * lengths[rest] <= lengths[rest].max()
        if not bool(short.any()) or cost(rest[~short]) + cost(rest[short]) >= cost(rest):
            return [*parts, rest]
        parts.append(rest[~short])
        rest = rest[short]


def _score(policy: Policy, rollout: Rollout, temperature: float, keep: Keep) -> Scores:
    """`score` of rows that are computed together."""
    head = linear_head(policy.model)
    with policy.precision():
        if head is None:
            ids, mask, positions = _inputs(rollout)
            logits = policy.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=rollout.response_ids.shape[1],
            ).logits
        else:
            hidden = hidden_states(policy, rollout)
            rows, columns = default_tile(hidden.device)
            if keep != "full" and rollout.response_ids.numel() * head.out_features > rows * columns:
                return _from_hidden(hidden, head, rollout, temperature, keep)
            logits = head(hidden)
    return _from_logits(logits, rollout, temperature, keep)


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
        hidden = _read_prompts_once(policy, rollout, runs) if pays else None
        if hidden is not None:
            return hidden
    ids, mask, positions = _inputs(rollout)
    output = policy.model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return output.last_hidden_state[:, -width:]


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


def _inputs(rollout: Rollout) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Ids, mask and positions of whole rows, without the last token, which predicts nothing."""
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)[:, :-1]
    if bool(rollout.prompt_mask.all()):  # padding on the right alone is harmless under causal attention
        return ids, None, None
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask], 1)[:, :-1]
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def _from_hidden(hidden: Tensor, head: nn.Linear, rollout: Rollout, temperature: float, keep: Keep) -> Scores:
    """Tile by tile from (N, T, d) hidden states, of which the padding's are never touched; its values are 0."""
    valid = rollout.response_mask
    cell_ids = rollout.cell_ids[valid] if keep == "topk" and rollout.cell_ids is not None else None
    ids = rollout.response_ids[valid]
    log_probs, entropy, cells = token_scores(hidden[valid], head.weight, head.bias, ids, cell_ids, temperature)

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(*valid.shape, *values.shape[1:]).index_put((valid,), values)

    return Scores(spread(log_probs), spread(entropy), None if cells is None else spread(cells))


def _from_logits(logits: Tensor, rollout: Rollout, temperature: float, keep: Keep) -> Scores:
    """The plain way, from whole (N, T, V) logits."""
    log_p = (logits.float() / temperature).log_softmax(-1)
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
