"""Wrong answers to the exercises: what a student may well write."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

HALF = ([0.5, 0.25, 0.25], [0.5, 0.25, 0.25])


def prefix_sums(inclusive=False, opens=True, weighted=True, equal=True, all_charged=True):
    """A mask by cumulative sums, right by default."""

    def mask(divergence, away, delta, delta_b, w_min):
        w = np.linspace(1, w_min, len(divergence))
        Z = w * divergence
        saved = delta_b * (w if weighted else w**0) - (Z if all_charged else Z * away)
        c = np.minimum(delta, np.cumsum(saved) - saved * (not inclusive) + delta * opens)
        return ~away | (Z <= c if equal else Z < c)

    return mask


def account(lowest=-math.inf, highest=math.inf):
    """A mask whose account is held within limits after each token, right by default."""

    def mask(divergence, away, delta, delta_b, w_min):
        left, kept = delta, []
        for w, D, moves_away in zip(np.linspace(1, w_min, len(divergence)), divergence, away, strict=True):
            kept.append(not moves_away or w * D <= min(delta, left))
            left = min(highest, max(lowest, left + w * (delta_b - D)))
        return kept

    return mask


def top_k(half=0.5, other=True, by_pi=False, replace=False, forget=False):
    def divergence(mu, pi, sampled, k):
        top = list(np.argsort(-(pi if by_pi else mu), kind="stable")[:k])
        if sampled not in top and not forget:
            top = [*top[: -1 if replace else None], sampled]
        cells = abs(mu[top] - pi[top]).sum()
        return half * (cells + abs(mu[top].sum() - pi[top].sum()) * other)

    return divergence


def plan(**other: Any) -> SimpleNamespace:
    """A plan as exercise 8.2 sees it, right but for `other`."""
    right = {"refusals": [], "method": "cppo-topk", "peak": {"training": 136e9}, "capacity": 141e9}
    return SimpleNamespace(**right | other)


def far(a, b, mask):
    return abs(a - b)[mask].mean()


WRONG: dict[str, list[Any]] = {
    "0.1": [["PPO", "DPPO"], ["DPPO"], [], "both"],
    "0.2": [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1], [0, 0, 1]],
    "0.3": [0.15, 0, -0.1, -0.02, 0.01, "-0.04 or so"],
    "1.1": [
        lambda rewards: rewards - rewards.mean(),
        lambda rewards: rewards - rewards.mean(axis=0),
        lambda rewards: (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, keepdims=True) + 1e-6),
        lambda rewards: rewards.mean(1, keepdims=True) - rewards,
        lambda rewards: np.where(rewards > 0.5, 1, -1),
        lambda rewards: rewards / rewards.sum(1, keepdims=True),
        lambda rewards: rewards - np.median(rewards, axis=1, keepdims=True),
        lambda rewards: (rewards - rewards.mean(1, keepdims=True)).clip(-1, 1),
    ],
    "1.2": [
        lambda weight, advantages, mask: (weight * advantages[:, None] * mask).sum() / mask.sum(),
        lambda weight, advantages, mask: -(weight * advantages[:, None] * mask).sum() / (mask * (weight > 0)).sum(),
        lambda weight, advantages, mask: -(weight * advantages[:, None] * mask).sum() / mask.size,
        lambda weight, advantages, mask: -(weight * advantages[:, None]).mean(),
        lambda weight, advantages, mask: -(weight * advantages.mean() * mask).sum() / mask.sum(),
    ],
    "1.3": [16, 12, 3, 4, 0],
    "2.1": [[1, 0, 1, 0, 0], [0, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1]],
    "2.2": [0.026, 0.0415, 0.0407, 0.0963, 1, None],
    "2.3": [
        prefix_sums(inclusive=True),
        prefix_sums(opens=False),
        prefix_sums(weighted=False),
        account(highest=0.125),
        account(lowest=0),
        prefix_sums(equal=False),
        prefix_sums(all_charged=False),
        lambda D, away, delta, delta_b, w_min: np.linspace(1, w_min, len(D)) * D <= delta,
        lambda D, away, delta, delta_b, w_min: ~away | (np.linspace(1, w_min, len(D)) * D <= delta),
        lambda D, away, delta, delta_b, w_min: None,
        lambda D: D,
    ],
    "3.1": [HALF, ([0.5, 0.5, 0], [0.4, 0, 0.6]), ([0.5, 0.5], [0.5, 0.5]), ([1, 1, 1], [1, 0, 2]), 0.3],
    "3.2": [top_k(half=1), top_k(other=False), top_k(by_pi=True), top_k(replace=True), top_k(forget=True)],
    "3.3": [0.02**0.5, 0.2, 0.01, 0.02],
    "4.1": [
        lambda D: (D > np.quantile(D, 0.9)).mean(),
        lambda D: D[-(len(D) // 10) :].sum() / D.sum(),
        lambda D: np.sort(D)[-(len(D) // 10) :].sum() / len(D),
        lambda D: D[np.quantile(D, 0.9) <= D].sum() / D.sum(),
        lambda D: D.max() / D.sum(),
        lambda D: np.sort(D)[-2:].sum() / D.sum(),
    ],
    "4.2": [
        lambda D, mask: D.mean(axis=0),
        lambda D, mask: (D * mask).mean(axis=0),
        lambda D, mask: (D * mask).sum(axis=1) / mask.sum(axis=1),
        lambda D, mask: D.sum(axis=0) / mask.sum(axis=0),
    ],
    "4.3": [
        lambda D, floor: np.quantile(D, 0.9),
        lambda D, floor: max(floor, np.quantile(D, 0.9)),
        lambda D, floor: min(2 * floor, np.quantile(D, 0.9)),
        lambda D, floor: np.clip(np.quantile(D, 0.5), floor, 2 * floor),
        lambda D, floor: np.clip(np.quantile(D, 0.9), floor, 1 / 32),
        lambda D, floor: floor,
        lambda D, floor: np.clip(np.sort(D)[int(0.9 * len(D))], floor, 2 * floor),
        lambda D, floor: np.clip(np.quantile(D, 0.9, method="nearest"), floor, 2 * floor),
    ],
    "5.1": [0.12, -0.48, 0.47, 0.35, -0.18, 0, "minus"],
    "5.2": [
        lambda caps: caps / caps[0],
        lambda caps: np.linspace(1, 0, len(caps)),
        lambda caps: caps[::-1].cumsum()[::-1] / caps.sum(),
        lambda caps: caps.cumsum() / caps.sum(),
        lambda caps: caps.sum() - np.cumsum(caps),
        lambda caps: np.linspace(1, 0.8, len(caps)),
    ],
    "5.3": [60, 58, 941, 950, 0.95],
    "6.1": [
        lambda horizon, residual: (residual / (2 * horizon * (horizon - 1))) ** 0.5,
        lambda horizon, residual: (residual / horizon**2) ** 0.5,
        lambda horizon, residual: residual / (horizon * (horizon - 1)),
        lambda horizon, residual: (residual / 2) ** 0.5,
        lambda horizon, residual: (residual / (horizon * (horizon + 1) / 3)) ** 0.5,
    ],
    "6.2": [0.25, 0.5, 0.7071, 0.125, 2],
    "6.3": [5, 2, 8, 6, 0.14],
    "7.1": [
        np.mean,
        np.median,
        lambda scores: scores[len(scores) // 4 : len(scores) - len(scores) // 4].mean(),
        lambda scores: np.sort(scores)[1:-1].mean(),
        lambda scores: np.sort(scores)[len(scores) // 4 :].mean(),
        lambda scores: np.sort(scores)[-(-len(scores) // 4) : len(scores) - -(-len(scores) // 4)].mean(),
    ],
    "7.2": [0.05, 1 / 60, 0.25, 1 / 32, 0, 1],
    "7.3": [
        lambda first, second: (first > second).mean(),
        lambda first, second: (first[:, None] > second).mean(),
        lambda first, second: (first[:, None] >= second).mean(),
        lambda first, second: float(first.mean() > second.mean()),
        lambda first, second: (second[:, None] > first).mean() + (second[:, None] == first).mean() / 2,
    ],
    "8.1": [
        lambda parameters, gpus: 16 * parameters,
        lambda parameters, gpus: 12 * parameters / gpus,
        lambda parameters, gpus: 4 * parameters / gpus,
        lambda parameters, gpus: 2 * parameters / gpus,
    ],
    "8.2": [
        plan(method="cppo"),
        plan(refusals=["engine verl: it cannot"], method="cppo-topk"),
        plan(capacity=80e9),
        plan(peak={}),
        ["engine=trl"],
    ],
    "8.3": [
        lambda mu, old, now, mask: (far(old, mu, mask), far(now, mu, mask)),
        lambda mu, old, now, mask: (far(now, old, mask), far(old, mu, mask)),
        lambda mu, old, now, mask: ((old - mu)[mask].mean(), (now - old)[mask].mean()),
        lambda mu, old, now, mask: (abs(old - mu).mean(), abs(now - old).mean()),
        lambda mu, old, now, mask: (abs((old - mu) * mask).mean(), abs((now - old) * mask).mean()),
    ],
}
