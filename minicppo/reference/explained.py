"""CPPO on one response, token by token, by the loop: the twin of `minicppo.rules.explained` for its default family."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from minicppo.reference.loops import Response
from minicppo.reference.mask import cppo_steps
from minicppo.reference.methods.cppo import allowed_drift, cppo
from minicppo.verdicts import Reason, token_rows


def explain_cppo(response: Response, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `minicppo.verdicts.token_rows`. params: every hyper-parameter of CPPO, its gate not "budget"."""
    D, away = response.divergence(params["divergence"]), response.away()
    w = response.position_weights(params["w_min"], params["schedule"], params["length"])
    budget = {name: params[name] for name in ("delta_b", "budget", "cap_factor", "quantile")}
    allowed = allowed_drift(D, **budget)
    steps = cppo_steps(D, away, delta=params["delta"], delta_b=allowed, weights=w)
    Z = [step.weighted_divergence for step in steps]
    columns = {
        "mu": response.mu,
        "pi": response.pi,
        "rho": response.ratios,
        "A": response.advantages,
        "w": w,
        "D": D,
        "Z": Z,
        "S": list(accumulate(Z)),
        "W": list(accumulate(w)),
        "c": [step.threshold for step in steps],
        "g": cppo(response, **params),
    }
    return token_rows(columns, [Reason[step.reason.upper()] for step in steps], allowed)
