"""SAPO: g_t = 4 p (1 - p) rho_t with p = sigmoid(tau (rho_t - 1)), tau by the sign of A_t."""

import math

from minicppo.reference.loops import Response, loop


@loop("sapo")
def sapo(response: Response, *, tau_pos: float, tau_neg: float) -> list[float]:
    g = []
    for rho, a in zip(response.ratios, response.advantages, strict=True):
        p = 1 / (1 + math.exp(-(tau_pos if a > 0 else tau_neg) * (rho - 1)))
        g.append(4 * p * (1 - p) * rho)
    return g
