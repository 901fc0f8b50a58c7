"""What the sampling side must hand over: mu's log-prob of each token and, for Top-K and exact methods, mu's cells."""

import math
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from minicppo.rl.policy import Policy
from minicppo.rl.sampling import Keep, sample

VLLM_MOST_LOG_PROBS = 20  # vLLM's default max_logprobs


@dataclass(frozen=True)
class RolloutCells:
    """mu's log-probs beyond the sampled token, (N, T, K); ids (N, T, K), None for the whole vocabulary."""

    log_probs: Tensor
    ids: Tensor | None

    def inputs(self, width: int) -> dict[str, Tensor]:
        """As entries of TRL's input dictionary, `width` tokens wide: TRL then shuffles and splits them by row."""
        found = {"rollout_cell_log_probs": self.log_probs, "rollout_cell_ids": self.ids}
        return {k: F.pad(v, (0, 0, 0, width - v.shape[1])) for k, v in found.items() if v is not None}


def draw(
    policy: Policy,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    *,
    keep: Keep = "none",
    k: int = 20,
    batch: int | None = None,
) -> tuple[list[list[int]], list[list[float]], RolloutCells | None]:
    """One response to each prompt by our own sampler: token ids, log mu of each, and cells if kept.

    Equal prompts next to each other, as TRL lays out a group, are read once.
    """
    samples = math.gcd(*(len(list(group)) for _, group in groupby(prompts)))
    rollout = sample(
        policy,
        prompts[::samples],
        max_new_tokens,
        temperature,
        generator,
        keep=keep,
        k=k,
        samples=samples,
        batch=batch,
    )
    lengths = rollout.response_mask.sum(1).tolist()
    ids = [row[:n] for row, n in zip(rollout.response_ids.tolist(), lengths, strict=True)]
    log_probs = [row[:n] for row, n in zip(rollout.log_probs.tolist(), lengths, strict=True)]
    cells = rollout.cell_log_probs
    return ids, log_probs, None if cells is None else RolloutCells(cells, rollout.cell_ids)


def split_ranked(
    completion_ids: list[list[int]], log_probs: list[list[list[float | None]]], token_ids: list[list[list[int]]], k: int
) -> tuple[list[list[list[float | None]]], RolloutCells]:
    """vLLM's log-probs, sorted by rank, as (the sampled token's alone, the K likeliest tokens' cells).

    With more than one log-prob a token, TRL 1.16 takes the first for the sampled token's, which is the likeliest's.
    Raises ValueError where a sampled token is not listed.
    """
    n, width = len(completion_ids), max(map(len, completion_ids), default=0)
    cells, ids = torch.zeros(n, width, k), torch.zeros(n, width, k, dtype=torch.long)
    sampled: list[list[list[float | None]]] = []
    for row, (tokens, row_log_probs, row_ids) in enumerate(zip(completion_ids, log_probs, token_ids, strict=True)):
        own: list[list[float | None]] = []
        for t, (token, ranked, names) in enumerate(zip(tokens, row_log_probs, row_ids, strict=True)):
            if token not in names or len(names) < k:
                raise ValueError(f"vLLM returned {len(names)} log-probs for token {t} of response {row}, not {k}")
            own.append([ranked[names.index(token)]])
            ids[row, t] = torch.tensor(names[:k])
            cells[row, t] = torch.tensor([math.nan if x is None else x for x in ranked[:k]])
        sampled.append(own)
    return sampled, RolloutCells(cells, ids)
