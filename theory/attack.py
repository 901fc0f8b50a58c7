"""Adversarial ascent: many random starts, each climbing the worst residual over a bound (ours).

A step perturbs the logits of both policies and is kept if the ratio rises; steps grow after success and shrink after
failure. No bound is differentiated, so those with minima and maxima over paths are attacked like the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from theory import pair_bounds as pb
from theory.tabular import Array, Pair

TARGETS: dict[str, Callable[[Pair], float]] = {
    "Prop. 4": lambda pair: res.proposition4(pair.drift, pair.caps),
    "B.9": lambda pair: res.product_form(pair.drift, pair.caps),
    "F2": pb.pair_certificate,
    "F3": lambda pair: sh.cap_theorem(pair.caps),
    "F4": lambda pair: sh.path_budget(pb.largest_path(pair)),
    "F4 exact": lambda pair: sh.path_budget_exact(pb.largest_path(pair)),
    "F4 capped": lambda pair: sh.path_budget_capped(pb.largest_path(pair), float(pair.caps.max())),
    "F5": lambda pair: sh.expected_budget(pair.drift.sum()),
    "F7": lambda pair: sh.chi_square_budget(pb.largest_chi_square(pair)),
    "T2": lambda pair: sh.mean_caps(pair.drift, pair.caps),
    "T2 unrolled": pb.unrolled,
    "T2 mean": lambda pair: sh.mean_budget(pair.drift.sum()),
    "T5 band": lambda pair: sh.ratio_band(pb.largest_path(pair), float(max(abs(x).max() for x in pair.excess))),
}
SHAPES = ((2, 2), (2, 3), (3, 2), (3, 3), (2, 4))  # vocabulary, horizon


def climb(bound: Callable[[Pair], float], rng: np.random.Generator, vocab: int, horizon: int, steps: int) -> float:
    """The largest ratio that one start reaches."""
    rows = sum(vocab**t for t in range(horizon))
    logits = rng.normal(0, rng.uniform(0.3, 3), (2, rows, vocab))
    best, size = _ratio(bound, logits, horizon), 0.5
    for _ in range(steps):
        # Now one state, now all of them: bounds that take a maximum over paths have ridges that need both.
        moved = np.ones(rows, dtype=bool) if rng.random() < 0.3 else np.arange(rows) == rng.integers(rows)
        trial = logits + size * rng.normal(size=logits.shape) * moved[:, None]
        ratio = _ratio(bound, trial, horizon)
        if ratio > best:
            logits, best, size = trial, ratio, min(4.0, 1.5 * size)
        else:
            size = max(0.05, 0.95 * size)
    return best


def attack(starts: int = 1000, steps: int = 40, seed: int = 0) -> dict[str, float]:
    """The largest ratio over all starts, shared equally by the bounds, by name; above 1 a bound is false."""
    rng = np.random.default_rng(seed)
    worst = dict.fromkeys(TARGETS, 0.0)
    for start in range(starts):
        name = list(TARGETS)[start % len(TARGETS)]
        vocab, horizon = SHAPES[start // len(TARGETS) % len(SHAPES)]
        worst[name] = max(worst[name], climb(TARGETS[name], rng, vocab, horizon, steps))
    return worst


def _ratio(bound: Callable[[Pair], float], logits: Array, horizon: int) -> float:
    chances = np.exp(logits - logits.max(axis=2, keepdims=True))
    chances /= chances.sum(axis=2, keepdims=True)
    vocab = logits.shape[2]
    cuts = np.cumsum([vocab**t for t in range(horizon)])[:-1]
    mu, pi = (tuple(np.split(policy, cuts)) for policy in chances)
    pair = Pair(mu, pi, np.ones(1))
    limit = float(bound(pair))
    return float(pb.worst_reward(pair)) / limit if limit > 1e-6 else 0.0
