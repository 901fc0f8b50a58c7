"""T2 for the constraints the algorithm tests: the largest bound that mean drifts inside Eq. 8 allow (ours)."""

import numpy as np
import scipy

from minicppo.bounds.budget import Budget
from minicppo.bounds.residual import suffix_products

LONGEST_PROGRAM = 512  # tokens; beyond, T2 without caps is a few per cent higher at most


def mean_budget_eq8(budget: Budget, xi: float = 1.0) -> float:
    """|Delta| <= the optimum of T2 over u_t = E_mu D_t: 0 <= u_t <= l_t, w_1 u_1 + .. + w_t u_t <= the budget's limits.

    Premises: those of Theorem 1 without its monotone ratio: pi << mu, the token test at every state, the prefix sums of
    Eq. 8 in mean over mu, fixed weights. A linear programme in u_t, z_t = min(u_t, l_t r_t) and both prefix sums; above
    512 tokens the simpler 2 xi sum_t u_t. Reward units.
    """
    horizon, w, caps = budget.horizon, budget.weights, budget.token_caps.astype(float)
    if horizon == 1:
        return 0.0
    if horizon > LONGEST_PROGRAM:
        return 2 * xi * budget.path_divergence
    tau, reached = suffix_products(caps), suffix_products(caps[::-1])[::-1]
    one, before = scipy.sparse.eye(horizon), scipy.sparse.eye(horizon, k=-1)
    zero, sums = 0 * one, one - before  # the variables: u, z, and the sums of u and of w u up to each position
    below = scipy.sparse.bmat([[-one, one, zero, zero], [zero, one, -scipy.sparse.diags(caps) @ before, zero]])
    equal = scipy.sparse.bmat([[-one, zero, sums, zero], [-scipy.sparse.diags(w), zero, zero, sums]])
    highest = np.concatenate([caps, caps * reached, np.full(horizon, np.inf), budget.limits])
    gain = np.concatenate([tau, 1 - tau, np.zeros(2 * horizon)])
    nothing = np.zeros(2 * horizon)
    found = scipy.optimize.linprog(-gain, below, nothing, equal, nothing, [(0, h) for h in highest], method="highs")
    return -2 * xi * float(found.fun)
