"""The detached token weight g of every method, one response at a time, straight from each paper's formula.

Every function takes the response's valid tokens only: `mu`, `pi` (sampled tokens' probabilities under the rollout and
the current policy), `adv` (A_t) and, where the method looks at more, `div` (D_t) or `away` (in place of
A_t (rho_t - 1) > 0). The policy gradient is then sum_t g_t A_t grad log pi(y_t).
"""

import math
from collections.abc import Callable, Sequence

from minicppo.reference.mask import (
    budget_gate,
    cppo_steps,
    dynamic_budget,
    linear_weights,
    soft_gate,
)

Floats = Sequence[float]


def ratios(mu: Floats, pi: Floats) -> list[float]:
    return [p / m for m, p in zip(mu, pi, strict=True)]


def moves_away(mu: Floats, pi: Floats, adv: Floats) -> list[bool]:
    return [a * (p - m) > 0 for m, p, a in zip(mu, pi, adv, strict=True)]


def reinforce(mu: Floats, pi: Floats, adv: Floats) -> list[float]:
    return [1.0 for _ in mu]


def none(mu: Floats, pi: Floats, adv: Floats) -> list[float]:
    return ratios(mu, pi)


def ppo(mu: Floats, pi: Floats, adv: Floats, *, clip_low: float, clip_high: float) -> list[float]:
    g = []
    for rho, a in zip(ratios(mu, pi), adv, strict=True):
        clipped = (a > 0 and rho > 1 + clip_high) or (a < 0 and rho < 1 - clip_low)
        g.append(0.0 if clipped else rho)
    return g


def cispo(mu: Floats, pi: Floats, adv: Floats, *, w_max: float, w_low: float = 0.0) -> list[float]:
    return [max(w_low, min(rho, w_max)) for rho in ratios(mu, pi)]


def minpro(mu: Floats, pi: Floats, adv: Floats, *, w_max: float, w_low: float = 0.0) -> list[float]:
    g, smallest = [], math.inf
    for rho in ratios(mu, pi):
        prefix = 1.0 if smallest == math.inf else smallest
        g.append(max(w_low, min(prefix * rho, w_max)))
        smallest = min(smallest, rho)
    return g


def gspo(mu: Floats, pi: Floats, adv: Floats, *, clip_low: float, clip_high: float) -> list[float]:
    s = math.exp(sum(math.log(rho) for rho in ratios(mu, pi)) / len(mu))
    return [0.0 if (a > 0 and s > 1 + clip_high) or (a < 0 and s < 1 - clip_low) else s for a in adv]


def sapo(mu: Floats, pi: Floats, adv: Floats, *, tau_pos: float, tau_neg: float) -> list[float]:
    g = []
    for rho, a in zip(ratios(mu, pi), adv, strict=True):
        p = 1 / (1 + math.exp(-(tau_pos if a > 0 else tau_neg) * (rho - 1)))
        g.append(4 * p * (1 - p) * rho)
    return g


def drpo(mu: Floats, pi: Floats, adv: Floats, *, delta: float, mu_weighted: bool = True) -> list[float]:
    g = []
    for m, p, a in zip(mu, pi, adv, strict=True):
        rho = p / m
        sign = (a * (rho - 1) > 0) - (a * (rho - 1) < 0)
        g.append((1 - sign * (abs(p - m) if mu_weighted else abs(rho - 1)) / delta) * rho)
    return g


def dppo(
    mu: Floats,
    pi: Floats,
    adv: Floats,
    *,
    div: Floats,
    delta: float,
    ratio_cap: float = math.inf,
    away: Sequence[bool] | None = None,
) -> list[float]:
    away = moves_away(mu, pi, adv) if away is None else away
    return [
        0.0 if out and d > delta else min(rho, ratio_cap) for rho, d, out in zip(ratios(mu, pi), div, away, strict=True)
    ]


def trm(
    mu: Floats,
    pi: Floats,
    adv: Floats,
    *,
    div: Floats,
    delta_max: float | None = None,
    delta_avg: float | None = None,
) -> list[float]:
    accepted = (delta_max is None or max(div) <= delta_max) and (delta_avg is None or sum(div) / len(div) <= delta_avg)
    return [rho if accepted else 0.0 for rho in ratios(mu, pi)]


def k3(mu: Floats, pi: Floats) -> list[float]:
    """Per-token estimate of KL(mu || pi) from mu's samples: rho - 1 - log rho >= 0."""
    return [rho - 1 - math.log(rho) for rho in ratios(mu, pi)]


def cppo(
    mu: Floats,
    pi: Floats,
    adv: Floats,
    *,
    div: Floats,
    delta: float,
    delta_b: float,
    w_min: float = 0.8,
    budget: str = "dynamic",
    cap_factor: float = 2.0,
    quantile: float = 0.9,
    gate: str = "hard",
    ratio_cap: float = math.inf,
    weights: Floats | None = None,
    away: Sequence[bool] | None = None,
) -> list[float]:
    away = moves_away(mu, pi, adv) if away is None else away
    weights = linear_weights(len(mu), w_min) if weights is None else weights
    allowed = {
        "fixed": delta_b,
        "dynamic": dynamic_budget(div, delta_b, cap_factor, quantile),
        "off": None,
    }[budget]
    steps = cppo_steps(div, away, delta=delta, delta_b=allowed, weights=weights)
    if gate == "hard":
        passed = [float(s.keep) for s in steps]
    elif gate == "budget":
        passed = budget_gate(steps, delta=delta, delta_b=allowed)
    else:
        passed = soft_gate(steps, delta=delta, delta_b=allowed, kind=gate)
    return [x * min(rho, ratio_cap) for x, rho in zip(passed, ratios(mu, pi), strict=True)]


def decoupled(
    mu: Floats,
    pi: Floats,
    adv: Floats,
    *,
    div: Floats,
    delta: float,
    delta_b: float,
    weights: Floats,
    budget_weights: Floats,
    budget: str = "dynamic",
    cap_factor: float = 2.0,
    quantile: float = 0.9,
    ratio_cap: float = math.inf,
    away: Sequence[bool] | None = None,
) -> list[float]:
    """Ours: Algorithm 1 with the weights w of the token limit and others, v, for the budget."""
    away = moves_away(mu, pi, adv) if away is None else away
    if budget == "dynamic":
        delta_b = dynamic_budget(div, delta_b, cap_factor, quantile)
    g = []
    room = math.inf if budget == "off" else delta
    for rho, d, out, w, v in zip(ratios(mu, pi), div, away, weights, budget_weights, strict=True):
        masked = out and (w * d > delta or v * d > room)
        g.append(0.0 if masked else min(rho, ratio_cap))
        room += v * (delta_b - d)
    return g


WEIGHTS: dict[str, Callable[..., list[float]]] = {
    f.__name__: f for f in (reinforce, none, ppo, cispo, minpro, gspo, sapo, drpo, dppo, trm, cppo, decoupled)
}
