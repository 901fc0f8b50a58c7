"""CISPO: g_t = clip(rho_t, w_low, w_max). MinPRO: the same of rho_t min(rho_1, .., rho_{t-1})."""

from minicppo.reference.loops import Response, loop


@loop("cispo")
def cispo(response: Response, *, w_max: float, w_low: float = 0.0) -> list[float]:
    return [max(w_low, min(rho, w_max)) for rho in response.ratios]


@loop("minpro")
def minpro(response: Response, *, w_max: float, w_low: float = 0.0) -> list[float]:
    g: list[float] = []
    for t, rho in enumerate(response.ratios):
        smallest = min(response.ratios[:t], default=1.0)
        g.append(max(w_low, min(smallest * rho, w_max)))
    return g
