"""A rollout in one record: responses with the log-probs they were sampled with, and what became of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from minicppo.rl.policy import Policy
from minicppo.rl.tasks.base import Problem, Task
from minicppo.rules import Cells, TokenBatch

Needs = Literal["log_probs", "topk", "full"]  # of each token: log mu alone, mu's K likeliest too, the whole vocabulary
LATER: Any = None  # not known when the responses are sampled
Record = TypeVar("Record")


@dataclass(frozen=True)
class Rollout:
    """N responses with the sampling policy's (mu's) own log-probs, the only anchor of every ratio and divergence.

    Attributes:
        prompt_ids: (N, P) int64, padded on the left.
        prompt_mask: (N, P) bool.
        response_ids: (N, T) int64, padded on the right.
        response_mask: (N, T) bool, true up to and including the end-of-sequence token.
        log_probs: (N, T) float32, log mu of each sampled token at the sampling temperature; 0 in the padding.
        top_ids: (N, T, K) int64, mu's K likeliest tokens, likeliest first; None unless sampled with needs="topk".
        top_log_probs: (N, T, K) float32, log mu of these, or of the whole vocabulary with needs="full"; else None.
        problems, texts, rewards, well_formed: of each row, from `grade`; (N,) float64 and (N,) bool the latter two.
        advantages: (N,) float32, zero in groups whose rewards are all equal; from `minicppo.rl.trainer.roll_out`.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    log_probs: Tensor
    top_ids: Tensor | None = None
    top_log_probs: Tensor | None = None
    problems: list[Problem] = LATER
    texts: list[str] = LATER
    rewards: Tensor = LATER
    well_formed: Tensor = LATER
    advantages: Tensor = LATER

    def __len__(self) -> int:
        return len(self.response_ids)

    @property
    def needs(self) -> Needs:
        """What it was sampled with."""
        return "log_probs" if self.top_log_probs is None else "full" if self.top_ids is None else "topk"

    def rows(self, index: Tensor) -> "Rollout":
        """Some rows (1-D indices or flags), columns as they are."""
        return rows(self, index)

    def trim(self) -> "Rollout":
        """Without the columns that are padding in all rows; one is left at least."""
        first = int(self.prompt_mask.any(0).int().argmax())
        width = int(self.response_mask.sum(1).max().clamp(min=1))
        cut: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.ndim > 1:
                cut[name] = value[:, first:] if name.startswith("prompt") else value[:, :width]
        return replace(self, **cut)

    def split(self, size: int | None) -> Iterator["Rollout"]:
        """`size` rows at a time (None: all), columns as they are."""
        if size is None or size >= len(self):
            yield self
            return
        for index in torch.arange(len(self), device=self.log_probs.device).split(size):
            yield self.rows(index)

    def token_batch(self, log_probs: Tensor, top_log_probs: Tensor | None = None) -> TokenBatch:
        """What the rules read: pi's log-probs (N, T), and (N, T, K) on the same tokens, beside the rollout's own."""
        cells = None
        if top_log_probs is not None:
            assert self.top_log_probs is not None
            cells = Cells(top_log_probs, self.top_log_probs, self.response_ids, self.top_ids)
        return TokenBatch(log_probs, self.log_probs, self.advantages, self.response_mask, cells)


def grade(policy: Policy, task: Task, problems: Sequence[Problem], rollout: Rollout) -> Rollout:
    """The rollout with its texts and rewards. Its rows are ordered problem by problem, equally many each."""
    lengths = rollout.response_mask.sum(1).tolist()
    texts = [policy.decode(ids[:n]) for ids, n in zip(rollout.response_ids.tolist(), lengths, strict=True)]
    asked = [problem for problem in problems for _ in range(len(texts) // len(problems))]
    answers, device = list(zip(asked, texts, strict=True)), rollout.log_probs.device
    return replace(
        rollout,
        problems=asked,
        texts=texts,
        rewards=torch.tensor([task.score(*each) for each in answers], dtype=torch.float64, device=device),
        well_formed=torch.tensor([task.well_formed(*each) for each in answers], dtype=torch.bool, device=device),
    )


def rows(record: Record, index: Tensor) -> Record:
    """Some rows of every tensor and list of a record (a dataclass)."""
    index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
    picked: dict[str, Any] = {}
    for name, value in vars(record).items():
        if isinstance(value, Tensor):
            picked[name] = value[index]
        elif isinstance(value, list):
            picked[name] = [value[i] for i in index.tolist()]
    return replace(record, **picked)  # type: ignore[type-var]


def join(parts: Sequence[Record], pad_id: int = 0, width: int = 0) -> Record:
    """The rows of several records of one kind, padded to the widest and to `width`: prompts on the left, others right.

    What is neither tensor nor list, nor a dictionary of them, is the first record's.
    """
    if len(parts) == 1 and not width:
        return parts[0]
    joined = {}
    for field in fields(parts[0]):  # type: ignore[arg-type]
        fill = pad_id if field.name in ("prompt_ids", "response_ids") else 0
        joined[field.name] = _joined([getattr(part, field.name) for part in parts], field.name, fill, width)
    return type(parts[0])(**joined)


def _joined(values: list[Any], name: str, fill: int, width: int) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {key: _joined([value[key] for value in values], name, fill, width) for key in first}
    if isinstance(first, list):
        return [each for value in values for each in value]
    if not isinstance(first, Tensor):
        return first
    if first.ndim == 1:
        return torch.cat(values)
    width, wide = max(width, *(value.shape[1] for value in values)), []
    for value in values:
        missing = width - value.shape[1]
        sides = (missing, 0) if name.startswith("prompt") else (0, missing)
        wide.append(F.pad(value, (0, 0) * (value.ndim - 2) + sides, value=fill))
    return torch.cat(wide)
