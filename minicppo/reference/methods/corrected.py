"""Decoupled methods: a rule's weight times a correction of the mismatch w = pi_old / mu."""

import math
from typing import Any

from minicppo.reference.loops import LOOPS, Response, loop


@loop("corrected")
def corrected(
    response: Response,
    *,
    rule: str,
    weigh: str,
    cap: float,
    reject: str,
    estimate: str,
    low: float,
    high: float,
    anchor: str,
    **params: Any,
) -> list[float]:
    """g_t = g_rule,t c_t with c = min(w, cap) where what is tested of w lies in [low, high], else 0.

    rule: the family of the trust region; params: its hyper-parameters. anchor: "old" judges pi / pi_old, "rollout"
    pi / mu, which holds w already: then c / w.
    """
    g = LOOPS[rule](response.since_old if anchor == "old" else response, **params)
    w = response.mismatches
    weights = {"off": [1.0] * len(w), "token": w, "sequence": [math.prod(w)] * len(w)}[weigh]
    found = []
    for each, kept, before in zip(weights, accepted(w, reject, estimate, low, high), g, strict=True):
        c = min(each, cap) if kept else 0.0
        found.append(before * (c if anchor == "old" else c / each))
    return found


def accepted(w: list[float], reject: str, estimate: str, low: float, high: float) -> list[bool]:
    """Which tokens, or all tokens or none, pass the test on w."""
    if estimate == "ratio":
        each, total, mean = w, math.prod(w), math.exp(sum(map(math.log, w)) / len(w))
    else:
        each = [math.log(x) ** 2 / 2 if estimate == "k2" else x - 1 - math.log(x) for x in w]
        total, mean = sum(each), sum(each) / len(each)
    inside = [low <= x <= high for x in each]
    if reject == "token":
        return inside
    whole = {"off": True, "any": all(inside), "sum": low <= total <= high, "mean": low <= mean <= high}[reject]
    return [whole] * len(w)
