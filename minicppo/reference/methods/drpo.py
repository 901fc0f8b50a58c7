"""DRPO: g_t = (1 - sign(A (rho - 1)) |pi - mu| / delta) rho. SPO has |rho - 1| in the place of |pi - mu|."""

from minicppo.reference.loops import Response, loop


@loop("drpo")
def drpo(response: Response, *, delta: float, mu_weighted: bool = True) -> list[float]:
    g = []
    for m, p, a in zip(response.mu, response.pi, response.advantages, strict=True):
        rho = p / m
        sign = (a * (rho - 1) > 0) - (a * (rho - 1) < 0)
        g.append((1 - sign * (abs(p - m) if mu_weighted else abs(rho - 1)) / delta) * rho)
    return g
