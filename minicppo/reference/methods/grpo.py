"""GRPO and its kin: weights that the ratio alone decides, the plain policy gradient's among them."""

import math

from minicppo.reference.loops import Response, loop


@loop("reinforce")
def reinforce(response: Response) -> list[float]:
    """g_t = 1."""
    return [1.0 for _ in response.mu]


@loop("none")
def unmasked(response: Response) -> list[float]:
    """g_t = rho_t."""
    return response.ratios


def beyond_clip(rho: float, a: float, low: float, high: float, c: float = math.inf) -> bool:
    """rho > 1 + high where A > 0, rho < 1 - low or rho > c where A < 0: PPO's clip, and a dual clip."""
    return (a > 0 and rho > 1 + high) or (a < 0 and (rho < 1 - low or rho > c))


@loop("ppo")
def ppo(response: Response, *, clip_low: float, clip_high: float, clip_c: float = math.inf) -> list[float]:
    """g_t = rho_t, but 0 beyond the clips."""
    tokens = zip(response.ratios, response.advantages, strict=True)
    return [0.0 if beyond_clip(rho, a, clip_low, clip_high, clip_c) else rho for rho, a in tokens]


@loop("rollout-is")
def rollout_is(response: Response, *, clip_low: float, clip_high: float) -> list[float]:
    """g_t = rho_t strictly between 1 - low and 1 + high, 0 elsewhere."""
    return [rho if 1 - clip_low < rho < 1 + clip_high else 0.0 for rho in response.ratios]


@loop("cispo")
def cispo(response: Response, *, w_max: float, w_low: float = 0.0) -> list[float]:
    """g_t = clip(rho_t, w_low, w_max)."""
    return [max(w_low, min(rho, w_max)) for rho in response.ratios]


@loop("minpro")
def minpro(response: Response, *, w_max: float, w_low: float = 0.0) -> list[float]:
    """g_t = clip(rho_t min(rho_1, .., rho_{t-1}), w_low, w_max)."""
    g: list[float] = []
    for t, rho in enumerate(response.ratios):
        smallest = min(response.ratios[:t], default=1.0)
        g.append(max(w_low, min(smallest * rho, w_max)))
    return g


@loop("gspo")
def gspo(response: Response, *, clip_low: float, clip_high: float, clip_c: float = math.inf) -> list[float]:
    """g_t = s, the geometric mean of the response's ratios, but 0 where s is beyond PPO's clips."""
    s = math.exp(sum(math.log(rho) for rho in response.ratios) / len(response.mu))
    return [0.0 if beyond_clip(s, a, clip_low, clip_high, clip_c) else s for a in response.advantages]


@loop("sapo")
def sapo(response: Response, *, tau_pos: float, tau_neg: float) -> list[float]:
    """g_t = 4 p (1 - p) rho_t with p = sigmoid(tau (rho_t - 1)), tau by the sign of A_t."""
    g = []
    for rho, a in zip(response.ratios, response.advantages, strict=True):
        p = 1 / (1 + math.exp(-(tau_pos if a > 0 else tau_neg) * (rho - 1)))
        g.append(4 * p * (1 - p) * rho)
    return g


@loop("drpo")
def drpo(response: Response, *, delta: float, mu_weighted: bool = True) -> list[float]:
    """g_t = (1 - sign(A (rho - 1)) |pi - mu| / delta) rho; SPO has |rho - 1| in the place of |pi - mu|."""
    g = []
    for m, p, a in zip(response.mu, response.pi, response.advantages, strict=True):
        rho = p / m
        sign = (a * (rho - 1) > 0) - (a * (rho - 1) < 0)
        g.append((1 - sign * (abs(p - m) if mu_weighted else abs(rho - 1)) / delta) * rho)
    return g
