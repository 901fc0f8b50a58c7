"""Sampling responses with a key-value cache, and the log-probs they were sampled with."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from minicppo.rl.policy import Policy

Keep = Literal["none", "topk", "full"]


@dataclass(frozen=True)
class Rollout:
    """N responses with the sampling policy's (mu's) own log-probs, the only anchor of every ratio and divergence.

    Attributes:
        prompt_ids: (N, P) int64, padded on the left.
        prompt_mask: (N, P) bool.
        response_ids: (N, T) int64, padded on the right.
        response_mask: (N, T) bool, true up to and including the end-of-sequence token.
        log_probs: (N, T) float32, log mu of each sampled token at the sampling temperature; 0 in the padding.
        cell_ids: (N, T, K) int64, mu's K likeliest tokens, likeliest first; None unless sampled with keep="topk".
        cell_log_probs: (N, T, K) float32, log mu of these, or of the whole vocabulary with keep="full"; else None.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    log_probs: Tensor
    cell_ids: Tensor | None = None
    cell_log_probs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.response_ids)

    def rows(self, index: Tensor) -> "Rollout":
        """Some rows, columns as they are."""
        picked: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            picked[field.name] = None if value is None else value[index]
        return Rollout(**picked)

    def select(self, index: Tensor) -> "Rollout":
        """Some rows (1-D indices), without the columns that are padding in all of them."""
        first = int(self.prompt_mask[index].any(0).int().argmax())
        width = int(self.response_mask[index].sum(1).max())
        picked: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                picked[field.name] = value[index, first:] if field.name.startswith("prompt") else value[index, :width]
        return Rollout(**picked)


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    keep: Keep = "none",
    k: int = 20,
    samples: int = 1,
    batch: int | None = None,
) -> Rollout:
    """Sample `samples` responses to each prompt from the untruncated softmax at `temperature`.

    Rows are ordered prompt by prompt. A row stops at its end-of-sequence token and is computed no further. Each row's
    random numbers are fixed in advance (CPU generator), so they depend neither on the device nor on `batch`.

    Args:
        prompts: token ids, of any lengths.
        generator: CPU generator; None takes the likeliest token everywhere (greedy).
        keep: also keep log mu of the K likeliest tokens ("topk") or of all ("full").
        batch: most prompts per forward pass (all by default).

    Raises:
        ValueError: no prompts, an empty prompt, a temperature or length that is not positive.
    """
    if not prompts or not all(prompts):
        raise ValueError("sample needs at least one prompt, and no prompt may be empty")
    if temperature <= 0 or max_new_tokens < 1 or samples < 1:
        raise ValueError(
            f"sample needs temperature > 0, max_new_tokens >= 1 and samples >= 1, got {temperature}, {max_new_tokens} "
            f"and {samples}; for the likeliest tokens pass generator=None"
        )
    device, n = policy.device, len(prompts) * samples
    uniforms = None if generator is None else torch.rand(n, max_new_tokens, generator=generator, dtype=torch.float64)
    parts = []
    for start in range(0, len(prompts), batch or len(prompts)):
        chunk = prompts[start : start + (batch or len(prompts))]
        rows = slice(start * samples, (start + len(chunk)) * samples)
        noise = None if uniforms is None else uniforms[rows].to(device)
        parts.append(_sample_chunk(policy, chunk, max_new_tokens, temperature, noise, keep, k, samples))
    return _concatenate(parts, policy.pad_id)


def _sample_chunk(
    policy: Policy,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    uniforms: Tensor | None,
    keep: Keep,
    k: int,
    samples: int,
) -> Rollout:
    prompt_ids, prompt_mask = _pad_left(prompts, policy.pad_id, policy.device)
    n, device = len(prompts) * samples, policy.device
    response_ids = torch.full((n, max_new_tokens), policy.pad_id, device=device)
    response_mask = torch.zeros(n, max_new_tokens, dtype=torch.bool, device=device)
    log_probs = torch.zeros(n, max_new_tokens, device=device)
    cell_ids: Tensor | None = None
    cells: Tensor | None = None

    alive = torch.arange(n, device=device)  # the rows still running; everything below has this many rows
    cache = DynamicCache(config=policy.model.config)
    mask = prompt_mask
    inputs, positions = prompt_ids, (mask.cumsum(1) - 1).clamp(min=0)
    padded = not bool(mask.all())
    for t in range(max_new_tokens):
        with policy.precision():
            logits = policy.model(
                input_ids=inputs,
                attention_mask=mask if padded else None,  # without padding plain causal attention is right, and faster
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        positions = positions[:, -1:] + 1
        if t == 0 and samples > 1:  # each prompt was read once; from here on its samples go their own ways
            cache.batch_repeat_interleave(samples)
            logits, mask, positions = (x.repeat_interleave(samples, 0) for x in (logits, mask, positions))
        log_p = (logits.float() / temperature).log_softmax(-1)
        tokens = log_p.argmax(-1) if uniforms is None else _inverse_cdf(log_p, uniforms[alive, t])

        response_ids[alive, t] = tokens
        response_mask[alive, t] = True
        log_probs[alive, t] = log_p.gather(1, tokens[:, None])[:, 0]
        if keep != "none":
            width = log_p.shape[1] if keep == "full" else min(k, log_p.shape[1])
            if cells is None:
                cells = torch.zeros(n, max_new_tokens, width, device=device)
                cell_ids = torch.zeros(n, max_new_tokens, width, dtype=torch.long, device=device)
            if keep == "full":
                cells[alive, t] = log_p
            else:
                assert cell_ids is not None
                cells[alive, t], cell_ids[alive, t] = log_p.topk(width)

        going = (tokens != policy.eos_id).nonzero()[:, 0]
        if len(going) == 0:
            break
        inputs = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if len(going) < len(tokens):
            cache.batch_select_indices(going)
            alive, inputs, mask, positions = alive[going], inputs[going], mask[going], positions[going]
    return Rollout(
        prompt_ids.repeat_interleave(samples, 0),
        prompt_mask.repeat_interleave(samples, 0),
        response_ids[:, : t + 1],
        response_mask[:, : t + 1],
        log_probs[:, : t + 1],
        cell_ids[:, : t + 1] if cell_ids is not None and keep == "topk" else None,
        cells[:, : t + 1] if cells is not None else None,
    )


def _inverse_cdf(log_p: Tensor, uniforms: Tensor) -> Tensor:
    """(B,) tokens: the first whose cumulative probability exceeds the uniform number, in float64 as there are many."""
    cdf = log_p.double().exp().cumsum(-1)
    return torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)[:, 0].clamp(max=log_p.shape[1] - 1)


def _pad_left(prompts: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(N, P) ids and (N, P) bool mask of prompts of different lengths, aligned on the right."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    return ids, mask


def _concatenate(parts: list[Rollout], pad_id: int) -> Rollout:
    """All rows of several rollouts, padded to the widest prompt and the widest response."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for field in fields(Rollout):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is None:
            continue
        width = max(value.shape[1] for value in values)
        left = field.name.startswith("prompt")
        fill = pad_id if field.name in ("prompt_ids", "response_ids") else 0
        padded = []
        for value in values:
            missing = value.new_full((len(value), width - value.shape[1], *value.shape[2:]), fill)
            padded.append(torch.cat([missing, value] if left else [value, missing], 1))
        joined[field.name] = torch.cat(padded)
    return Rollout(**joined)
