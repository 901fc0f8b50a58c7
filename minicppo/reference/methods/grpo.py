"""PPO's clip: g_t = rho_t, but 0 where rho > 1 + clip_high and A > 0, or rho < 1 - clip_low and A < 0."""

from minicppo.reference.loops import Response, loop


@loop("ppo")
def ppo(response: Response, *, clip_low: float, clip_high: float) -> list[float]:
    g = []
    for rho, a in zip(response.ratios, response.advantages, strict=True):
        clipped = (a > 0 and rho > 1 + clip_high) or (a < 0 and rho < 1 - clip_low)
        g.append(0.0 if clipped else rho)
    return g
