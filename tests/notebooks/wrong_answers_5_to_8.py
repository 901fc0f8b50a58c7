"""Wrong answers to the exercises 5.1 to 8.3: what a student may well write."""

from types import SimpleNamespace
from typing import Any

import numpy as np


def plan(**other: Any) -> SimpleNamespace:
    """A plan as exercise 8.2 sees it, right but for `other`."""
    right = {"refusals": [], "method": "cppo-topk", "peak": {"training": 136e9}, "capacity": 141e9}
    return SimpleNamespace(**right | other)


def far(a, b, mask):
    return abs(a - b)[mask].mean()


WRONG: dict[str, list[Any]] = {
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
