"""A rollout in one record: responses with the log-probs they were sampled with, and what became of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from minicppo.rl.policy import Policy
from minicppo.rl.tasks.base import Problem, Task, judged
from minicppo.rules import TokenBatch, TopLogProbs, rows

Needs = Literal["log_probs", "topk", "full"]  # of each token: log mu alone, mu's K likeliest too, the whole vocabulary
LATER: Any = None  # not known when the responses are sampled


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
        old_log_probs: (N, T) float32, log pi_old of each sampled token, of the weights before the iteration's first
            update; None where pi_old is mu.
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
    old_log_probs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.response_ids)

    @property
    def needs(self) -> Needs:
        """What it was sampled with."""
        return "log_probs" if self.top_log_probs is None else "full" if self.top_ids is None else "topk"

    def rows(self, index: Tensor) -> "Rollout":
        """Some rows (1-D indices or flags), columns as they are."""
        return rows.take(self, index)

    def trim(self) -> "Rollout":
        """Without the columns that are padding in all rows; one is left at least."""
        first = int(self.prompt_mask.any(0).int().argmax())
        width = int(self.response_mask.sum(1).max().clamp(min=1))
        return self.by_column(lambda name, value: value[:, first:] if name.startswith("prompt") else value[:, :width])

    def by_column(self, change: Callable[[str, Tensor], Tensor]) -> "Rollout":
        """What has columns is changed, by name."""
        columns = {k: change(k, v) for k, v in vars(self).items() if isinstance(v, Tensor) and v.ndim > 1}
        return replace(self, **columns)  # type: ignore[arg-type]

    def split(self, size: int | None) -> Iterator["Rollout"]:
        """`size` rows at a time (None: all), columns as they are."""
        for index in torch.arange(len(self), device=self.log_probs.device).split(size or len(self)):
            yield self if len(index) == len(self) else self.rows(index)

    def token_batch(self, log_probs: Tensor, top_log_probs: Tensor | None = None) -> TokenBatch:
        """What the rules read: pi's log-probs (N, T), and (N, T, K) on the same tokens, beside the rollout's own."""
        top = None
        if top_log_probs is not None:
            assert self.top_log_probs is not None
            top = TopLogProbs(top_log_probs, self.top_log_probs, self.response_ids, self.top_ids)
        old = self.old_log_probs
        return TokenBatch(log_probs, self.log_probs, self.advantages, self.response_mask, top, old_log_probs=old)


def grade(policy: Policy, task: Task, problems: Sequence[Problem], rollout: Rollout) -> Rollout:
    """The rollout with its texts and rewards. Its rows are ordered problem by problem, equally many each."""
    lengths = rollout.response_mask.sum(1).tolist()
    texts = [policy.decode(ids[:n]) for ids, n in zip(rollout.response_ids.tolist(), lengths, strict=True)]
    asked = [problem for problem in problems for _ in range(len(texts) // len(problems))]
    verdicts = [judged(task, problem, text) for problem, text in zip(asked, texts, strict=True)]
    rewards, well_formed = torch.tensor(verdicts, dtype=torch.float64, device=rollout.log_probs.device).unbind(1)
    return replace(rollout, problems=asked, texts=texts, rewards=rewards, well_formed=well_formed.bool())


def join(parts: Sequence[Rollout], pad_id: int) -> Rollout:
    """The rows of all, one after the other, padded to the widest prompt and the widest response."""
    prompt = max(part.prompt_ids.shape[1] for part in parts)
    width = max(part.response_ids.shape[1] for part in parts)

    def padded(name: str, value: Tensor) -> Tensor:
        fill, left = pad_id if name in ("prompt_ids", "response_ids") else 0, name.startswith("prompt")
        return widen(value, prompt if left else width, fill, left)

    return rows.join([part.by_column(padded) for part in parts])


def widen(values: Tensor, width: int, fill: int = 0, left: bool = False) -> Tensor:
    """(N, width, ...) from (N, T, ...), filled up on the right, or on the left."""
    missing = width - values.shape[1]
    return F.pad(values, (0, 0) * (values.ndim - 2) + ((missing, 0) if left else (0, missing)), value=fill)
