"""T4 and T5: how large a step to take, from what a log shows (ours). Proofs: theory/steps.md.

Both guarantees are "surrogate less residual" in units that do not know the horizon: a step that spends the share
alpha of the largest surrogate its divergence could buy earns alpha x - residual(x), and has one best x.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy

from minicppo.bounds.sharper import chi_square_budget


def best_budget(alpha: float) -> tuple[float, float]:
    """T4: the path budget B that maximises alpha B - B (1 - e^-B), and that maximum, in units of 2 xi.

    alpha = L' / (2 xi U) is what a log shows. B solves (1 - B) e^-B = 1 - alpha: 1 at alpha = 1, alpha / 2 if small.
    Premises: pi << mu, sum_t D_t <= B along every path, token caps small beside B (F4's limit), L' = 2 xi alpha B.
    Raises ValueError outside [0, 1].
    """
    return _peak(alpha, lambda total: -total * float(np.expm1(-total)))


def best_chi_square(alpha: float) -> tuple[float, float]:
    """T4 for chi-square: the budget C that maximises alpha sqrt(C) - sqrt(e^C - 1 - C), and that, in sigma_R.

    alpha = L' / (sigma_R sqrt(C)) is at most 1 by T5. Premises: those of F7. Raises ValueError outside [0, 1].
    """
    root, gain = _peak(alpha, lambda root: chi_square_budget(root**2))
    return root**2, gain


def _peak(alpha: float, residual: Callable[[float], float]) -> tuple[float, float]:
    """Where alpha x - residual(x) is largest, and its value; residual convex, its slope at x at least x."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must lie in [0, 1]: L' cannot exceed what the divergence buys")
    if alpha == 0:
        return 0.0, 0.0
    tolerance = {"xatol": 1e-9 * alpha}
    found = scipy.optimize.minimize_scalar(
        lambda x: residual(x) - alpha * x, bounds=(0, alpha), method="bounded", options=tolerance
    )
    return float(found.x), float(-found.fun)
