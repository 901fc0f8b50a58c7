"""Checks of our own statements: F1 to F7, the programme for Eq. 8, Theorem B, the thresholds, the
certificate.
"""

from __future__ import annotations

import numpy as np

from minicppo.bounds import design as dsg
from minicppo.bounds import families as fam
from minicppo.bounds import gate as gt
from minicppo.bounds import programs as prog
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds import tabular as tab
from minicppo.bounds.budget import Budget
from theory.rollouts import coverage
from theory.study import Evidence, Study

DELTA, DELTA_B, W_MIN = 0.15, 0.02, 0.8


def worst_reward(study: Study) -> Evidence:
    """F1: R = -sign K attains xi ||K||_1, constants do not matter, and Cauchy-Schwarz bounds any reward."""
    rng = np.random.default_rng(study.seed)
    error, worst = 0.0, 0.0
    for item, supremum in zip(study.pool, study.worst, strict=True):
        k, rewards = tab.kernel(item.pair), rng.uniform(-1, 1, len(item.pair.reach_mu[-1]))
        error = max(error, abs(tab.residual(item.pair, -np.sign(k)) - supremum) / max(supremum, 1))
        error = max(error, abs(tab.residual(item.pair, rewards + 7) - tab.residual(item.pair, rewards)))
        bound = sh.deviation_bound(item.pair, rewards)
        worst = max(worst, float(abs(tab.residual(item.pair, rewards))) / bound) if bound > 1e-9 else worst
    return Evidence(
        error < 1e-9 and worst <= 1 + 1e-9,
        len(study.pool),
        1.0,
        "so xi = half the range: 1/2 for rewards in {0, 1}",
    )


def pair_certificate(study: Study) -> Evidence:
    """F2: never violated and never above Prop. 4."""
    holds, count, worst = study.bounded("pair")
    below = bool((study.bounds["pair"][:, 1] <= study.bounds["prop4"][:, 1] + 1e-9).all())
    return Evidence(holds and below, count, worst, "no caps needed, estimable from rollouts; heavy tailed")


def cap_theorem(study: Study) -> Evidence:
    """F3: never violated, attained by the rare-token pair."""
    holds, count, _ = study.bounded("caps")
    rng = np.random.default_rng(study.seed)
    attained = 1.0
    for horizon in (2, 3, 4):
        for _ in range(5):
            caps = rng.uniform(0.05, 0.7, horizon)
            attained = min(attained, float(sh.worst_reward(fam.rare_token(caps, 2.0**-20)) / sh.cap_theorem(caps)))
    return Evidence(
        holds and attained > 0.999,
        count + 15,
        attained,
        "worst ratio over rare-token pairs, T = 2 .. 4: attained",
    )


def path_budget(study: Study) -> Evidence:
    """F4 and its elementary form: never violated, within 1.4x of attained."""
    holds, count, worst = study.bounded("path")
    finite, _, sharp = study.bounded("path_finite")
    spread = fam.rare_token(np.full(7, 2 / 7), 2.0**-20)
    return Evidence(
        holds and finite and worst > 0.7,
        count,
        worst,
        f"B^2 (1-1/T) form {sharp:.2f}; B=2 spread over T=7: "
        f"{float(sh.worst_reward(spread)) / sh.path_budget(2.0):.2f}",
    )


def expected_budget(study: Study) -> Evidence:
    """F5: never violated; below Theorem 1 from T = 12 on where every D_t is delta_b."""
    holds, count, worst = study.bounded("expected")
    first = next(t for t in range(2, 99) if sh.expected_budget(t * DELTA_B) < res.theorem1(t, DELTA, DELTA_B, W_MIN))
    return Evidence(
        holds,
        count,
        worst,
        f"with U = T delta_b it is below Theorem 1 from T={first}; it alone never certifies",
    )


def exact_programme(study: Study) -> Evidence:
    """F6: above every enumerated policy inside the budget; equal to F3 where the rule is a cap alone."""
    worst, count = 0.0, 0
    suprema: dict[tuple[int, str, float], float] = {}
    for item, value in zip(study.pool, study.worst, strict=True):
        if item.budget is None:
            continue
        key = (item.pair.horizon, item.budget.form, float(item.budget.weights[-1]))
        if key not in suprema:
            suprema[key] = prog.exact_supremum(item.budget)
        worst, count = max(worst, value / suprema[key]), count + 1
    gap = max(
        abs(prog.exact_supremum(Budget(0.1, 9.0, np.ones(t)), cells=20) - sh.uniform_supremum(t, 0.1))
        for t in (2, 5, 12)
    )
    return Evidence(
        worst <= 1 + 1e-3 and gap < 1e-9,
        count + 3,
        worst,
        f"equals F3 for caps alone to {gap:.0e}; a grid value, from below",
    )


def chi_square(study: Study) -> Evidence:
    """F7: never violated."""
    holds, count, worst = study.bounded("chi2")
    return Evidence(holds, count, worst, "free of the horizon; infinite once mu truncates its support")


def trm(study: Study) -> Evidence:
    """The five TRM bounds, re-derived: none violated."""
    names = [name for name in study.bounds if name.startswith("trm_")]
    found = [study.bounded(name) for name in names]
    worst = ", ".join(f"{name[4:]} {ratio:.2f}" for name, (_, _, ratio) in zip(names, found, strict=True))
    return Evidence(
        all(f[0] for f in found), found[0][1] * len(found), max(f[2] for f in found), f"worst ratio: {worst}"
    )


def theorem1_eq8(study: Study) -> Evidence:
    """The closed form for Eq. 8 equals the greedy and the simplex optimum; the bound holds."""
    holds, count, worst = study.bounded("theorem1_eq8")
    gap = 0.0
    for horizon, w_min in ((4, 1.0), (16, 0.8), (64, 0.8), (64, 0.5)):
        budget = Budget.linear(horizon, DELTA, DELTA_B, w_min)
        programme = prog.theorem1_program(budget, res.suffix_sums(np.full(horizon, min(1, DELTA / w_min))))
        value = prog.greedy(*programme)[0]
        gap = max(gap, abs(value - prog.linear_program(*programme)), abs(value - res.theorem1_eq8(budget)))
    return Evidence(holds and gap < 1e-7, count + 4, worst, f"closed form = greedy = linprog to {gap:.0e}")


def path_budget_eq8(study: Study) -> Evidence:
    """F4 for Eq. 8: B is the fill from the end; the bound holds on every enumerated policy inside Eq. 8."""
    holds, count, worst = study.bounded("path_algorithm")
    gap = 0.0
    for horizon in (8, 32, 128):
        budget = Budget.linear(horizon, DELTA, DELTA_B, W_MIN)
        gap = max(gap, abs(prog.greedy(1 / budget.weights, budget.caps, budget.limits)[0] - budget.path_divergence))
    grid = {t: sh.path_budget(Budget.linear(t, DELTA, DELTA_B, W_MIN).path_divergence) for t in (8, 8192)}
    return Evidence(
        holds and gap < 1e-9,
        count + 3,
        worst,
        f"T=8: {grid[8]:.3f}; T=8192: {grid[8192]:.0f} (vacuous; Theorem 1: 5e5); xi = 1, half for rewards in [0, 1]",
    )


def theorem_b(study: Study) -> Evidence:
    """Theorem B on every pair of the pool, both ways of counting, with a random reward and baseline."""
    rng = np.random.default_rng(study.seed)
    violation, count = -np.inf, 0
    for item in study.pool:
        pair = item.pair
        budget = Budget.linear(pair.horizon, rng.uniform(0.05, 0.4), rng.uniform(0, 0.1), rng.uniform(0.3, 1))
        rewards, baseline = rng.uniform(-1, 1, len(pair.reach_mu[-1])), rng.uniform(-1, 1, 1)
        for kept_only in (False, True):
            gates = gt.hard_gates(pair, budget, kept_only)
            gated = fam.apply_gate(pair, gates)
            change = float(tab.improvement(gated, rewards))
            moved = abs(float(tab.improvement(pair, rewards)) - change)
            violation = max(
                violation,
                float(gt.excess_over(gated, budget)),
                gt.gated_lower_bound(pair, budget, gates, rewards, baseline) - change,
                moved - 2 * gt.gate_failure(pair, gates),
            )
            count += 1
    return Evidence(
        violation < 1e-12,
        count,
        None,
        f"largest violation {violation:.0e}; exact TV, fixed delta_b and weights",
    )


def waterfill(study: Study) -> Evidence:
    """The causal water-filling gate meets Eq. 8 on every path, and keeps at least what the hard gate keeps in
    total cap.
    """
    worst = -np.inf
    for item in study.pool:
        budget = Budget.linear(item.pair.horizon, DELTA, DELTA_B, W_MIN)
        gated = fam.apply_gate(item.pair, fam.waterfill_gates(item.pair, budget))
        worst = max(worst, float(gt.excess_over(gated, budget)))
    return Evidence(worst < 1e-12, len(study.pool), None, f"largest excess over the budget {worst:.0e}")


def thresholds(study: Study) -> Evidence:
    """Designs certify what they promise; the largest useful horizons are 7 / 11 / 37 and 100 / 307 / 991."""
    error = 0.0
    for row in dsg.design_table(0.5, horizons=(16, 1024, 8192)):
        for method, d in row.items():
            bound = dsg.certified_residual(d.horizon, d.delta, d.delta_b, d.w_min, 1.0, method)
            error = max(error, abs(bound - 0.5))
    found = [
        tuple(dsg.largest_horizon(*values, method=m) for m in ("uniform", "theorem1", "path"))
        for values in ((0.15, 0.02, 0.8), (0.01, 0.001, 1.0))
    ]
    return Evidence(
        error < 1e-6 and found == [(7, 11, 37), (100, 307, 991)],
        14,
        None,
        f"largest T with residual < 2 xi: {found[0]} and {found[1]}",
    )


def certificate(study: Study) -> Evidence:
    """The rollout certificate's 95% intervals cover the exact L', F2 and U."""
    draws = 120
    shares = coverage(draws, seed=study.seed)
    text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    honest = shares.pop("gain") > 0.94
    return Evidence(
        honest and all(abs(share - 0.95) < 0.06 for share in shares.values()),
        draws,
        None,
        f"coverage of nominal 95%: {text}",
    )
