"""Clip-Cov and KL-Cov: tokens are held back by their share in a covariance over the whole batch."""

import math
from typing import Any

from minicppo.reference.loops import Response, loop
from minicppo.reference.methods.grpo import ppo
from minicppo.reference.methods.pull import pull

Place = tuple[int, int]  # response, token


def covariances(batch: list[Response]) -> dict[Place, float]:
    """(A - mean A) (log pi - mean log pi) of every token, to 9 places, so that equal ones are equal."""
    tokens = [
        ((i, t), a, math.log(p))
        for i, response in enumerate(batch)
        for t, (p, a) in enumerate(zip(response.pi, response.advantages, strict=True))
    ]
    A, x = (math.fsum(column) / len(tokens) for column in list(zip(*tokens, strict=True))[1:])
    return {place: round((a - A) * (p - x), 9) for place, a, p in tokens}


@loop("clip-cov")
def clip_cov(response: Response, *, share: float, cov_low: float, cov_high: float, **clips: float) -> list[float]:
    """PPO's g_t; 0 for every so-manieth unclipped token whose covariance is in (cov_low, cov_high), largest first."""
    batch = list(response.batch) or [response]
    cov = covariances(batch)
    free = {(i, t): g > 0 for i, each in enumerate(batch) for t, g in enumerate(ppo(each, **clips))}
    band = sorted((p for p in cov if free[p] and cov_low < cov[p] < cov_high), key=lambda p: -cov[p])
    k = min(len(band), max(1, int(share * len(cov))))
    masked = {band[(2 * i + 1) * len(band) // (2 * k)] for i in range(k)}
    return [0.0 if (response.index, t) in masked else g for t, g in enumerate(ppo(response, **clips))]


@loop("kl-cov")
def kl_cov(response: Response, *, share: float, beta: float) -> list[float]:
    """g_t = rho_t, and the pull of beta |log rho| on the share of tokens with the largest covariances."""
    cov = covariances(list(response.batch) or [response])
    top = sorted(cov, key=lambda p: -cov[p])[: max(1, int(share * len(cov)))]
    g: list[Any] = []
    for t, (rho, a) in enumerate(zip(response.ratios, response.advantages, strict=True)):
        sign = (rho > 1) - (rho < 1)
        g.append(rho + (pull(beta * sign, a) if (response.index, t) in top else 0.0))
    return g
