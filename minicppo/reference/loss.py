"""Advantages and loss aggregation by plain loops."""

from collections.abc import Sequence

import numpy as np


def group_advantages(rewards: Sequence[float], normalize_std: bool = False, ddof: int = 1) -> list[float] | None:
    """Advantages of one group of responses to one prompt; None where all rewards are equal (the group is dropped)."""
    mean = sum(rewards) / len(rewards)
    if all(r == rewards[0] for r in rewards):
        return None
    std = float(np.std(rewards, ddof=ddof))
    return [(r - mean) / (std + 1e-6) if normalize_std else r - mean for r in rewards]


def aggregate(
    losses: Sequence[Sequence[float]], mode: str, horizon: int | None = None, count_empty: bool = True
) -> float:
    """Mean loss of ragged per-token losses, one inner sequence a response (valid tokens, masked ones included).

    count_empty: whether a response without a token is one of the responses averaged over.
    """
    total, n = sum(sum(row) for row in losses), sum(bool(row) or count_empty for row in losses)
    if mode == "token-mean":
        return total / sum(len(row) for row in losses)
    if mode == "seq-mean-token-mean":
        return sum(sum(row) / len(row) for row in losses if row) / n
    if mode == "seq-mean-token-sum":
        return total / n
    if mode == "seq-mean-token-sum-norm":
        assert horizon is not None
        return total / n / horizon
    raise ValueError(f"unknown loss aggregation {mode!r}")


def policy_loss(
    weights: Sequence[Sequence[float]], advantages: Sequence[Sequence[float]], mode: str, horizon: int | None = None
) -> float:
    """Value of the loss: -aggregate(g A). Its gradient with respect to log pi is -aggregate's weight times g A."""
    rows = [[-g * a for g, a in zip(gs, As, strict=True)] for gs, As in zip(weights, advantages, strict=True)]
    return aggregate(rows, mode, horizon)
