"""g_t = 1, or rho_t."""

from minicppo.reference.loops import Response, loop


@loop("reinforce")
def reinforce(response: Response) -> list[float]:
    return [1.0 for _ in response.mu]


@loop("none")
def unmasked(response: Response) -> list[float]:
    return response.ratios
