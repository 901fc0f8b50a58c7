"""Gates: what the CPPO mask does to a policy, if one deploys it instead of only masking gradients.

The test I_t of paper Eq. 8 to 10, Z_t <= c_t = min(delta, delta + delta_b W_{t-1} - S_{t-1}), is a function of the
state s_t when the divergence is exact and the weights are fixed. That makes it a gate on the policy itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicppo.bounds.budget import Budget
from minicppo.bounds.sharper import path_budget
from theory.families import apply_gate, causal_gates, waterfill_gates
from theory.pair_bounds import require_support
from theory.tabular import Array, Levels, Pair


def keeps(budget: Budget, t: int, z: Array, spent: Array) -> Array:
    """I_t: Z_t <= min(delta, limit_t - S_{t-1}); t is 0-based, z and spent any shape; bool. Paper Eq. 10."""
    return (z <= budget.caps[t]) & (z <= budget.limits[t] - spent)


def hard_gates(pair: Pair, budget: Budget, count_kept_only: bool = False) -> Levels:
    """I_t at every state, as 0 / 1: T arrays (P * V**t,).

    S counts every token, as the paper's algorithm does, or only the kept ones.
    """

    def gate(t: int, z: Array, spent: Array) -> Array:
        return keeps(budget, t, z, spent).astype(float)

    return causal_gates(pair, budget.weights, gate, count_gated=count_kept_only)


def violation_score(budget: Budget, t: int, z: Any, spent: Any) -> Any:
    """x_t = max(Z_t / delta, S_t / (delta + delta_b W_{t-1})), S_t with token t. Paper C.1: x_t <= 1 iff I_t.

    Premise: delta > 0. Decisions agree in exact arithmetic; in floating point ties can differ.
    """
    return np.maximum(z / budget.delta, (spent + z) / budget.limits[t])


def soft_gates(pair: Pair, budget: Budget) -> Levels:
    """The paper's soft gate g = min(1, 1 / x_t), S counting the un-gated policy (C.1): T arrays (P * V**t,).

    It keeps g_t Z_t <= delta at every token but NOT the prefix budget; `families.waterfill_gates` keeps both.
    """

    def gate(t: int, z: Array, spent: Array) -> Array:
        return 1 / np.maximum(1, violation_score(budget, t, z, spent))

    return causal_gates(pair, budget.weights, gate, count_gated=False)


def excess_over(pair: Pair, budget: Budget) -> Any:
    """The largest of Z_t - cap_t and S_t - limit_t over all paths of mu: at most 0 inside the budget."""
    reached = pair.path_divergence[:, pair.reach_mu[-1] > 0]
    z = np.asarray(budget.weights)[:, None] * reached
    over_caps = z - budget.caps[:, None]
    over_limits = np.cumsum(z, axis=0) - budget.limits[:, None]
    return max(over_caps.max(), over_limits.max())


def masked_surrogate(pair: Pair, gates: Levels, rewards: Array, baseline: Array) -> Any:
    """E_mu sum_t M_t (rho_t - 1) A_t: what the masked objective measures, reward units. Paper Eq. 11.

    M_t = 1 where A_t (rho_t - 1) <= 0 or I_t; A = R - b, with b (P,) a baseline per prompt; rewards (leaves,).
    """
    advantage = rewards - np.repeat(baseline, len(rewards) // len(baseline))
    gain = pair.path_excess * advantage
    kept = (gain <= 0) | (pair.along_paths(gates) > 0)
    return pair.reach_mu[-1] @ (gain * kept).sum(axis=0)


def gated_lower_bound(
    pair: Pair, budget: Budget, gates: Levels, rewards: Array, baseline: Array, xi: float = 1.0
) -> float:
    """Theorem B (ours): J(pi_g) - J(mu) >= masked surrogate - 2 xi B min(1, B), which is returned.

    pi_g is pi where I_t holds and mu elsewhere; B = `budget.path_divergence`. Premises: pi << mu, exact TV, weights and
    delta_b fixed before the response is drawn, hard gates, form "algorithm", A = R - b with b fixed by the prompt.
    """
    require_support(pair)
    return float(masked_surrogate(pair, gates, rewards, baseline)) - path_budget(budget.path_divergence, xi)


def gate_failure(pair: Pair, gates: Levels) -> float:
    """P_pi(some gate closes along the response); |J(pi) - J(pi_g)| <= 2 xi times this: see `closed_divergence`."""
    closed = (pair.along_paths(gates) < 1).any(axis=0)
    return float(pair.reach_pi[-1] @ closed)


def closed_divergence(pair: Pair, gates: Levels) -> float:
    """E_pi sum_t (1 - g_t) D_t; |J(pi) - J(pi_g)| <= 2 xi times this, for gates in [0, 1] (Theorem B, second line)."""
    return float(pair.reach_pi[-1] @ ((1 - pair.along_paths(gates)) * pair.path_divergence).sum(axis=0))


def waterfilled_lower_bound(pair: Pair, budget: Budget, rewards: Array, baseline: Array, xi: float = 1.0) -> float:
    """T3: J(pi_w) - J(mu) >= E_mu sum_t g_t (rho_t - 1) A_t - 2 xi B min(1, B), which is returned; g of water-filling.

    pi_w = mu + g (pi - mu). Continuous in pi, since the gate is. Premises: those of `gated_lower_bound`.
    """
    require_support(pair)
    advantage = rewards - np.repeat(baseline, len(rewards) // len(baseline))
    gates = pair.along_paths(waterfill_gates(pair, budget))
    gated = pair.reach_mu[-1] @ (gates * pair.path_excess * advantage).sum(axis=0)
    return float(gated) - path_budget(budget.path_divergence, xi)


def gated(pair: Pair, budget: Budget) -> Pair:
    """The deployable policy of Theorem B: (mu, pi_g) with hard gates that count every token."""
    return apply_gate(pair, hard_gates(pair, budget))
