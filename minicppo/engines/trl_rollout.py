"""What the rules need beside TRL's own tensors: mu's log-probs and Top-K from the sampler, pi's at the same tokens.

TRL's fused head makes no logits, so those of pi are made here, a few rows at a time.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from itertools import groupby
from typing import Any, SupportsFloat

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor
from trl.trainer.utils import maybe_gather_lm_head_ctx

from minicppo.rl.policy import Policy
from minicppo.rl.sampling import sample

VLLM_MOST_LOG_PROBS = 20  # vLLM's default max_logprobs
LOG_ONE = 1e-3  # the most that rounding makes of a log-prob
LOGITS_AT_ONCE = 1 << 26  # 256 MB of float32
# Names under which configurations bend or scale logits between the head and the softmax.
BENT_LOGITS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")

# mu's log-probs beyond the sampled token, (N, T, K), as entries of TRL's input dictionary: "rollout_top_log_probs" and,
# unless they are of the whole vocabulary, "rollout_top_ids".
Top = dict[str, Tensor]


def rolled_out(
    policy: Policy,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    ends: Sequence[int] = (),
    **options: Any,
) -> tuple[list[list[int]], list[list[float]], Top]:
    """One response to each prompt by our own sampler: token ids, log mu of each, and Top-K if kept.

    Equal prompts next to each other, as TRL lays out a group, are read once. ends: tokens at which TRL ends a response,
    beside the sampler's own end token: what was sampled after one is cut off. options: of `sample`.
    """
    samples = math.gcd(*(len(list(group)) for _, group in groupby(prompts)))
    rollout = sample(policy, prompts[::samples], max_new_tokens, temperature, generator, samples=samples, **options)
    ended = torch.isin(rollout.response_ids, torch.tensor(ends, dtype=torch.long, device=policy.device))
    before = ended.cumsum(1) - ended.long()  # end tokens to the left of each
    lengths = (rollout.response_mask & (before == 0)).sum(1).tolist()
    ids = [row[:n] for row, n in zip(rollout.response_ids.tolist(), lengths, strict=True)]
    log_probs = [row[:n] for row, n in zip(rollout.log_probs.tolist(), lengths, strict=True)]
    top = {"rollout_top_log_probs": rollout.top_log_probs, "rollout_top_ids": rollout.top_ids}
    return ids, log_probs, {name: value for name, value in top.items() if value is not None}


def split_ranked(
    completion_ids: list[list[int]], log_probs: list[list[list[float | None]]], token_ids: list[list[list[int]]], k: int
) -> tuple[list[list[list[float | None]]], Top]:
    """vLLM's log-probs, sorted by rank, as (the sampled token's alone, those of the K likeliest tokens).

    With more than one log-prob a token, TRL 1.16 takes the first for the sampled token's, which is the likeliest's.
    Raises ValueError where a sampled token is not listed.
    """
    shape = len(completion_ids), max(map(len, completion_ids), default=0), k
    sampled, top, ids = [], torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
    for row, (tokens, values, names) in enumerate(zip(completion_ids, log_probs, token_ids, strict=True)):
        for t, (token, listed) in enumerate(zip(tokens, names, strict=True)):
            if token not in listed or len(listed) < k:
                raise ValueError(f"vLLM returned {len(listed)} log-probs for token {t} of response {row}, not {k}")
        sampled.append([[values[t][names[t].index(token)]] for t, token in enumerate(tokens)])
        kept = np.array([each[:k] for each in values], dtype=np.float64).reshape(-1, k)  # NaN for None
        top[row, : len(tokens)] = torch.from_numpy(kept)
        ids[row, : len(tokens)] = torch.tensor([each[:k] for each in names], dtype=torch.long).view(-1, k)
    return sampled, {"rollout_top_log_probs": top, "rollout_top_ids": ids}


def require_log_probs(
    completion_ids: list[list[int]], log_probs: list[list[float | None]], own: list[list[int]] | None
) -> None:
    """Raise ValueError, naming the response, where a token has no log-prob: TRL would take it for certain (log mu 0).

    own: 1 for the policy's tokens, 0 for those that it did not sample, whose log-probs are never read.
    """
    if len(log_probs) != len(completion_ids):
        raise ValueError(f"the rollout has {len(completion_ids)} responses and log-probs of {len(log_probs)}")
    for row, (ids, values) in enumerate(zip(completion_ids, log_probs, strict=True)):
        if values is None or len(values) != len(ids):
            found = "no" if values is None else len(values)
            raise ValueError(f"response {row} of the rollout has {len(ids)} tokens and {found} log-probs")
        for t, value in enumerate(values):
            number = isinstance(value, SupportsFloat) and -math.inf < value <= LOG_ONE
            if (own is None or own[row][t]) and not number:
                raise ValueError(
                    f"response {row} of the rollout: the log-prob of token {t} is {value}. Way out: give the sampled "
                    "token's log mu; or leave such a response out; or mask the token (env_mask 0)"
                )


def require_plain_head(model: Any) -> None:
    """Raise ValueError for models whose logits are more than the head's output."""
    config = model.config.get_text_config()
    for name in BENT_LOGITS:
        if getattr(config, name, None) not in (None, 1.0):
            raise ValueError(
                f"the model's {name}={getattr(config, name)}: Top-K and exact divergences are computed from plain "
                "logits. Way out: a method with a binary divergence, such as cppo"
            )


@contextmanager
def last_hidden_states(model: Any) -> Iterator[list[Tensor]]:
    """Collects what the model's backbone returns while the block runs; detached.

    A model with learned positions is told them, counted from the first token of the prompt: TRL leaves them out, so
    that padding before a prompt would shift it (GPT-2). With rotary positions a shift changes nothing.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone, found = base.get_decoder(), []  # of OPT, the part that every version of TRL runs
    rotary = any("rotary" in type(module).__name__.lower() for module in backbone.modules())

    def place(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if (mask := kwargs.get("attention_mask")) is not None and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return args, kwargs

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append(output.last_hidden_state.detach())

    handles = [backbone.register_forward_hook(keep)]
    if not rotary and "position_ids" in signature(backbone.forward).parameters:
        handles.append(backbone.register_forward_pre_hook(place, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def top_log_probs(model: Any, hidden: Tensor, ids: Tensor | None, temperature: float) -> Tensor:
    """(B, T, K) float32: log pi of the tokens `ids`, or of all (None), from the (B, T, H) states before the head."""
    head = model.get_output_embeddings()
    weight, bias = (x.full_tensor() if isinstance(x, DTensor) else x for x in (head.weight, head.bias))
    states = hidden.flatten(0, 1)
    rows = max(1, LOGITS_AT_ONCE // len(weight))
    found = []
    with maybe_gather_lm_head_ctx(weight, bias):
        for part in torch.arange(len(states), device=states.device).split(rows):
            log_p = (F.linear(states[part], weight.to(states.dtype), bias).float() / temperature).log_softmax(-1)
            found.append(log_p if ids is None else log_p.gather(1, ids.flatten(0, 1)[part]))
    return torch.cat(found).view(*hidden.shape[:2], -1)
