"""Sampling responses with a key-value cache, and the log-probs that they were sampled with."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from minicppo.rl.decoding import Decoder, decoder_for
from minicppo.rl.drawing import draw
from minicppo.rl.policy import Policy, layer_parameters

Keep = Literal["none", "topk", "full"]
ENDED, CUDA_ENDED = 1 / 16, 1 / 2  # share of the rows that may have ended before the others close ranks
CUDA_PAUSE = 8  # steps between two looks at how many rows are left
CUDA_WORK = 4e9  # rows x parameters below which a GPU's step takes as long for fewer rows


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
        """Some rows (1-D indices), without the columns that are padding in all of them; one is left at least."""
        first = int(self.prompt_mask[index].any(0).int().argmax())
        width = int(self.response_mask[index].sum(1).max().clamp(min=1))
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
    top_p: float = 1.0,
    likeliest: bool = False,
) -> Rollout:
    """Sample `samples` responses to each prompt from the untruncated softmax at `temperature`.

    Rows are ordered prompt by prompt. A row stops at its end-of-sequence token and is soon computed no further. Each
    row's random numbers are fixed in advance (CPU generator), so they depend neither on the device nor on `batch`.

    Args:
        prompts: token ids, of any lengths; each is read once, beside others of about its length.
        generator: CPU generator; None takes the likeliest token everywhere (greedy).
        keep: also keep log mu of the K likeliest tokens ("topk") or of all ("full").
        batch: most prompts per forward pass (all by default).
        top_p: for evaluation only: sample from the fewest likeliest tokens that hold this much probability. Log-probs
            stay those of the whole softmax, so such a rollout is no sample of mu and must not be trained on.
        likeliest: for evaluation only: before its samples, each prompt has a row of likeliest tokens.

    Raises:
        ValueError: no prompts, an empty prompt, a temperature or length that is not positive; top_p outside (0, 1], or
            below 1 together with cells.
        FloatingPointError: the policy's logits are not finite.
    """
    if not prompts or not all(prompts):
        raise ValueError("sample needs at least one prompt, and no prompt may be empty")
    if temperature <= 0 or max_new_tokens < 1 or samples < 1:
        raise ValueError(
            f"sample needs temperature > 0, max_new_tokens >= 1 and samples >= 1, got {temperature}, {max_new_tokens} "
            f"and {samples}; for the likeliest tokens pass generator=None"
        )
    if not 0 < top_p <= 1 or (top_p < 1 and keep != "none"):
        raise ValueError(
            f"top_p must lie in (0, 1] and be 1 where cells are kept, got {top_p} with keep={keep!r}: truncated "
            "samples are for evaluation; to train, sample with top_p=1"
        )
    uniforms = None
    if generator is not None:
        uniforms = torch.rand(len(prompts), samples, max_new_tokens, generator=generator, dtype=torch.float64)
        uniforms = F.pad(uniforms, (0, 0, int(likeliest), 0)).flatten(0, 1)
    samples += likeliest
    decoder = decoder_for(policy.model)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    parts, rows_of_parts = [], []
    for chunk in torch.tensor(by_length).split(batch or len(prompts)):
        chunk = chunk.sort().values
        rows = (chunk[:, None] * samples + torch.arange(samples)).flatten()
        noise = None if uniforms is None else uniforms[rows].to(policy.device)
        chosen = [prompts[i] for i in chunk.tolist()]
        parts.append(
            _sample_chunk(
                policy, decoder, chosen, max_new_tokens, temperature, noise, keep, k, samples, top_p, likeliest
            )
        )
        rows_of_parts.append(rows)
    if len(parts) == 1:
        return parts[0]
    return _concatenate(parts, policy.pad_id).rows(torch.cat(rows_of_parts).argsort().to(policy.device))


def _sample_chunk(
    policy: Policy,
    decoder: Decoder,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    uniforms: Tensor | None,
    keep: Keep,
    k: int,
    samples: int,
    top_p: float,
    likeliest: bool,
) -> Rollout:
    prompt_ids, prompt_mask = _pad_left(prompts, policy.pad_id, policy.device)
    n, cuda = len(prompts) * samples, policy.device.type == "cuda"
    few = CUDA_WORK / layer_parameters(policy.model) if cuda else 1  # rows that are not worth closing ranks

    def choose(logits: Tensor, rows: Tensor, t: Tensor) -> Tensor:
        if uniforms is None:
            return logits.argmax(-1)
        tokens = draw(logits, uniforms[rows, t], top_p)
        return torch.where(rows % samples == 0, logits.argmax(-1), tokens) if likeliest else tokens

    record = _Record(n, max_new_tokens, policy, temperature, choose, keep, k)
    with policy.precision():  # one context for all steps: autocast casts the weights once
        record.take(decoder.read(prompt_ids, prompt_mask, samples, max_new_tokens))
        for t in range(1, max_new_tokens):
            if not cuda or t % CUDA_PAUSE == 1:  # to count the rows alive makes a GPU wait
                left, computed = int(record.alive.sum()), len(record.alive)
                if left == 0:
                    break
                if computed > few and computed - left >= computed * (CUDA_ENDED if cuda else ENDED):
                    order = _close_ranks(record.alive, left)
                    decoder.keep(order)
                    record.keep_rows(order)
            decoder.step(record.tokens, record.take)
            record.steps = t + 1
    return record.rollout(prompt_ids.repeat_interleave(samples, 0), prompt_mask.repeat_interleave(samples, 0))


def _close_ranks(alive: Tensor, left: int) -> Tensor:
    """(left,) rows to go on with: those alive, where the last of them take the places of those that ended."""
    order = torch.arange(left, device=alive.device)
    order[~alive[:left]] = left + alive[left:].nonzero()[:, 0]
    return order


class _Record:
    """The rows still computed, and what is kept of every step of all N: never (N, T, V) unless asked for.

    rows: (B,) which of the N these are. alive: (B,) which of them have not ended. tokens: (B,) their newest.
    """

    def __init__(
        self,
        n: int,
        width: int,
        policy: Policy,
        temperature: float,
        choose: Callable[[Tensor, Tensor, Tensor], Tensor],
        keep: Keep,
        k: int,
    ):
        self.n, self.width, self.policy = n, width, policy
        self.temperature, self.choose, self.keep, self.k = temperature, choose, keep, k
        self.ids = torch.full((n, width), policy.pad_id, device=policy.device)
        self.log_probs = torch.zeros(n, width, device=policy.device)
        self.cells: Tensor | None = None
        self.cell_ids: Tensor | None = None
        self.steps, self.t = 1, self.ids.new_zeros(1)
        self.rows = torch.arange(n, device=policy.device)
        self.alive, self.tokens = torch.ones_like(self.rows, dtype=torch.bool), torch.zeros_like(self.rows)

    def take(self, logits: Tensor) -> None:
        """The next step from logits (B, V). Writes in place and asks the GPU nothing, so that it can be recorded."""
        logits = logits.float() / self.temperature
        tokens, at = self.choose(logits, self.rows, self.t), (self.rows, self.t)
        norm = logits.logsumexp(-1, keepdim=True)
        self.ids[at] = tokens
        self.log_probs[at] = (logits.gather(1, tokens[:, None]) - norm)[:, 0]
        if self.keep != "none":
            self._take_cells(at, logits, norm)
        self.tokens.copy_(tokens)
        self.alive &= tokens != self.policy.eos_id
        self.t += 1

    def _take_cells(self, at: tuple[Tensor, Tensor], logits: Tensor, norm: Tensor) -> None:
        if self.keep == "full":
            values = logits - norm
        else:
            top = logits.topk(min(self.k, logits.shape[1]))
            values = top.values - norm
            if self.cell_ids is None:
                self.cell_ids = self.ids.new_zeros(self.n, self.width, values.shape[1])
            self.cell_ids[at] = top.indices
        if self.cells is None:
            self.cells = values.new_zeros(self.n, self.width, values.shape[1])
        self.cells[at] = values

    def keep_rows(self, order: Tensor) -> None:
        """Go on with these of the rows alone."""
        self.rows, self.alive, self.tokens = self.rows[order], self.alive[order], self.tokens[order]

    def rollout(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Rollout:
        """All of it, up to each row's first end-of-sequence token: what was computed after that is wiped."""
        ends = self.ids == self.policy.eos_id
        over = ends.cumsum(1) - ends.long() > 0
        over[:, self.steps :] = True
        self.ids[over] = self.policy.pad_id
        for values in (self.log_probs, self.cells, self.cell_ids):
            if values is not None:
                values[over] = 0
        broken = int(self.log_probs.isnan().any(1).sum())
        if broken:
            raise FloatingPointError(
                f"{broken} of {self.n} responses have log-probs that are not numbers: the policy's logits are not "
                "finite; lower train.lr, or look at the weights it was loaded from"
            )
        width = int((~over).sum(1).max())
        return Rollout(
            prompt_ids,
            prompt_mask,
            self.ids[:, :width],
            ~over[:, :width],
            self.log_probs[:, :width],
            None if self.cell_ids is None else self.cell_ids[:, :width],
            None if self.cells is None else self.cells[:, :width],
        )


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
