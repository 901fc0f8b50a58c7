"""Divergences of a pair of next-token distributions, exact or on a coarser partition of the vocabulary."""

import math
from collections.abc import Sequence

from minicppo.reference.mask import Number, Numbers

Cell = tuple[int, ...]  # token ids lumped together


def total_variation(mu: Numbers, pi: Numbers) -> Number:
    """TV(mu, pi) = 1/2 sum |mu - pi|, in [0, 1]."""
    return sum(abs(m - p) for m, p in zip(mu, pi, strict=True)) / 2


def kl_divergence(mu: Numbers, pi: Numbers) -> float:
    """KL(mu || pi) in nats; infinite where pi lacks mass that mu has."""
    total = 0.0
    for m, p in zip(mu, pi, strict=True):
        if m > 0:
            total += float(m) * (math.log(m) - math.log(p)) if p > 0 else math.inf
    return total


def topk_partition(mu: Numbers, k: int, sampled: int, variant: str = "union") -> list[Cell]:
    """The k likeliest tokens of mu and the sampled token, each alone, and one cell "other".

    variant: "union" (paper: k + 1 single cells when the sampled token is outside the top k) or "replace_last"
    (the DPPO authors' Stable-RL, TRL: the sampled token takes the k-th place).
    """
    top = sorted(range(len(mu)), key=lambda i: -mu[i])[:k]
    if sampled not in top:
        top = [*top, sampled] if variant == "union" else [*top[:-1], sampled]
    return [(i,) for i in top] + [tuple(i for i in range(len(mu)) if i not in top)]


def coarsen(distribution: Numbers, partition: Sequence[Cell]) -> list[Number]:
    """Mass of each cell."""
    return [sum((distribution[i] for i in cell), start=0) for cell in partition]


def divergence(kind: str, mu: Numbers, pi: Numbers, sampled: int, k: int = 20, variant: str = "union") -> Number:
    """D(mu, pi) by name: "{binary,topk,exact}_{tv,kl}". Coarser partitions never give more.

    Binary (DPPO's): two cells, the sampled token and the rest.
    """
    cells, measure = kind.split("_")
    if cells == "binary":
        partition = [(sampled,), tuple(i for i in range(len(mu)) if i != sampled)]
    elif cells == "topk":
        partition = topk_partition(mu, k, sampled, variant)
    else:
        partition = [(i,) for i in range(len(mu))]
    p, q = coarsen(mu, partition), coarsen(pi, partition)
    return total_variation(p, q) if measure == "tv" else kl_divergence(p, q)


def predicted_drift(mu: Numbers, pi: Numbers, sampled: int, partition: Sequence[Cell]) -> Number:
    """Rate of KL(mu || pi) along the softmax-logit gradient of log pi(sampled), on a partition's cells.

    Predictive Divergence Masks (arXiv 2607.10848), aggregated tail: (pi_y - mu_y) + sum over cells of pi (mu - pi).
    Positive times the advantage: the step moves away from mu.
    """
    p, q = coarsen(pi, partition), coarsen(mu, partition)
    return pi[sampled] - mu[sampled] + sum(a * (b - a) for a, b in zip(p, q, strict=True))
