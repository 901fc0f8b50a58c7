"""Checks of our own statements: F1 to F7, the programme for Eq. 8, Theorem B, the thresholds, the certificate."""

from __future__ import annotations

from itertools import combinations, product
from typing import get_args

import numpy as np
from scipy.special import rel_entr

from minicppo.bounds import design as dsg
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds.budget import Budget, Form
from theory import families as fam
from theory import gate as gt
from theory import pair_bounds as pb
from theory import programs as prog
from theory import tabular as tab
from theory.rollouts import coverage
from theory.study import DELTA, DELTA_B, W_MIN, Evidence, Study

# By horizon, xi = 1, at the paper's thresholds: Cor. 6, Theorem 1 as implemented, F4, F6 (theory/sharper.md).
TABLE: dict[int, tuple[float, ...]] = {
    8: (2.52, 1.112, 0.234, 0.164),
    16: (10.8, 3.285, 0.540, 0.381),
    32: (44.64, 10.5, 1.53, 0.977),
    64: (181.4, 36.48, 3.168, 2.50),
    8192: (3.02e6, 5.041e5, 363.5),
}
REACH = {  # the largest useful T of the uniform rule, Theorem 1 and F4 (theory/thresholds.md)
    (0.15, 0.02, 0.8): (7, 11, 37),
    (0.05, 0.005, 1.0): (20, 55, 190),
    (0.01, 0.001, 1.0): (100, 307, 991),
    (0.001, 0.0001, 1.0): (1000, 3153, 9991),
}


def worst_reward(study: Study) -> Evidence:
    """F1: R = -sign K attains xi ||K||_1, constants do not matter, and Cauchy-Schwarz bounds any reward."""
    rng = np.random.default_rng(study.seed)
    error, worst = 0.0, 0.0
    for item, supremum in zip(study.pool, study.worst, strict=True):
        k, rewards = tab.kernel(item.pair), rng.uniform(-1, 1, len(item.pair.reach_mu[-1]))
        error = max(error, abs(tab.residual(item.pair, -np.sign(k)) - supremum) / max(supremum, 1))
        error = max(error, abs(tab.residual(item.pair, rewards + 7) - tab.residual(item.pair, rewards)))
        bound = pb.deviation_bound(item.pair, rewards)
        worst = max(worst, float(abs(tab.residual(item.pair, rewards))) / bound) if bound > 1e-9 else worst
    for _ in range(20):  # a reward's mean may differ between prompts
        pair, rewards = fam.random_pair(rng, 3, 3, prompts=2), rng.uniform(-1, 1, 54)
        worst = max(worst, float(abs(tab.residual(pair, rewards))) / pb.deviation_bound(pair, rewards))
    return Evidence(
        error < 1e-9 and worst <= 1 + 1e-9,
        len(study.pool),
        1.0,
        "so xi = half the range: 1/2 for rewards in {0, 1}",
    )


def pair_certificate(study: Study) -> Evidence:
    """F2: never violated, never above Prop. 4, the same number with the divergence and by a double loop."""
    holds, count, worst = study.bounded("pair")
    below = bool((study.bounds["pair"][:, 1] <= study.bounds["prop4"][:, 1] + 1e-9).all())
    error = 0.0
    for item in study.pool[:180]:
        found, x = float(pb.pair_certificate(item.pair)), abs(item.pair.path_excess)
        loop = sum(item.pair.reach_mu[-1] @ (x[t] * x[j]) for t, j in combinations(range(len(x)), 2))
        error = max(error, *(abs(v - found) / max(found, 1) for v in (loop, pb.pair_certificate_divergence(item.pair))))
    holds &= below and error < 1e-9
    return Evidence(holds, count, worst, "no caps needed, estimable from rollouts; heavy tailed")


def cap_theorem(study: Study) -> Evidence:
    """F3: never violated, attained by the rare-token pair, symmetric in the caps."""
    holds, count, _ = study.bounded("caps")
    rng = np.random.default_rng(study.seed)
    attained, error = 1.0, abs(sh.uniform_supremum(9, DELTA) - sh.cap_theorem(np.full(9, DELTA)))
    for horizon in (2, 3, 4):
        for _ in range(5):
            caps = rng.uniform(0.05, 0.7, horizon)
            attained = min(attained, float(pb.worst_reward(fam.rare_token(caps, 2.0**-20)) / sh.cap_theorem(caps)))
            loop = 2 * sum(c * (1 - np.prod(np.delete(1 - caps, t))) for t, c in enumerate(caps))
            error = max(error, abs(sh.cap_theorem(caps) - loop), abs(sh.cap_theorem(caps[::-1]) - loop))
    return Evidence(
        holds and attained > 0.999 and error < 1e-12,
        count + 15,
        attained,
        "worst ratio over rare-token pairs, T = 2 .. 4: attained",
    )


def path_budget(study: Study) -> Evidence:
    """F4 and its elementary form: never violated, above F3, attained early and late and nearly in between."""
    holds, count, worst = study.bounded("path")
    finite, _, sharp = study.bounded("path_finite")
    spread = float(pb.worst_reward(fam.rare_token(np.full(7, 2 / 7), 2.0**-20))) / sh.path_budget(2.0)
    twice = float(pb.worst_reward(fam.rare_token(np.full(2, 1 - 2.0**-20), 2.0**-20))) / sh.path_budget(2.0)
    caps = np.random.default_rng(study.seed).uniform(0, 1, (200, 5)) ** 3
    above = all(sh.cap_theorem(c) <= min(sh.path_budget(c.sum()), sh.path_budget_finite(c.sum(), 5)) for c in caps)
    return Evidence(
        holds and finite and above and worst > 0.7 and spread > 0.85 and twice > 0.999,
        count,
        worst,
        f"B^2 (1-1/T) form {sharp:.2f}; B=2 spread over T=7: {spread:.2f}",
    )


def expected_budget(study: Study) -> Evidence:
    """F5: never violated; below Theorem 1 from T = 12 on where every D_t is delta_b."""
    holds, count, worst = study.bounded("expected")
    first = next(t for t in range(2, 99) if sh.expected_budget(t * DELTA_B) < res.theorem1(t, DELTA, DELTA_B, W_MIN))
    rng = np.random.default_rng(study.seed)
    for item in study.pool:
        rewards, total = rng.uniform(-1, 1, len(item.pair.reach_mu[-1])), float(item.pair.drift.sum())
        holds &= abs(tab.improvement(item.pair, rewards)) <= sh.largest_change(total) + 1e-12
        holds &= abs(tab.surrogate(item.pair, rewards)) <= 2 * total + 1e-12  # so F5 alone certifies nothing
    return Evidence(
        bool(holds) and first == 12,
        count,
        worst,
        f"with U = T delta_b it is below Theorem 1 from T={first}; it alone never certifies",
    )


def exact_programme(study: Study) -> Evidence:
    """F6: above every enumerated policy inside the budget, equal to F3 for a cap alone, nearly so by brute force."""
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
    three, grid = Budget(0.25, 0.0625, np.ones(3)), np.arange(9) / 32
    inside = [d for d in map(np.array, product(grid, repeat=3)) if (np.cumsum(d) <= three.limits + 1e-12).all()]
    flat = max(map(sh.cap_theorem, inside)) / prog.exact_supremum(three, cells=8)  # the same step in every state
    table = [value / prog.exact_supremum(Budget.linear(t)) for t, (*_, value) in TABLE.items() if t < 99]
    weights = [prog.exact_supremum(Budget.linear(16, w_min=w)) for w in (1.0, 0.8, 0.6, 0.4)]
    tabulated = np.allclose(table, 1, rtol=5e-3) and np.allclose(weights, [0.321, 0.381, 0.515, 0.829], atol=2e-3)
    return Evidence(
        worst <= 1 + 1e-3 and gap < 1e-9 and 0.95 < flat <= 1 + 1e-12 and tabulated,
        count + 3,
        worst,
        f"equals F3 for caps alone to {gap:.0e}; a grid value, from below",
    )


def chi_square(study: Study) -> Evidence:
    """F7: never violated; in mean square nearly attained by the same step everywhere."""
    holds, count, worst = study.bounded("chi2")
    mu, pi = (tuple(np.tile([p, 1 - p], (2**t, 1)) for t in range(7)) for p in (0.5, 0.35))
    pair = tab.Pair(mu, pi, np.ones(1))
    norm = float(np.sqrt(pair.reach_mu[-1] @ (tab.kernel(pair) / pair.reach_mu[-1]) ** 2))
    sharp = norm / sh.chi_square_budget(pb.largest_chi_square(pair))
    holds &= 0.85 < sharp <= 1
    return Evidence(holds, count, worst, "free of the horizon; infinite once mu truncates its support")


def trm(study: Study) -> Evidence:
    """The five TRM bounds, re-derived: none violated; KL(P_mu || P_pi) by the chain rule is that of the leaves."""
    pairs = [item.pair for item in study.pool if item.family == "dirichlet"]
    chain = all(np.isclose(tab.sequence_kl(p), rel_entr(p.reach_mu[-1], p.reach_pi[-1]).sum()) for p in pairs)
    names = [name for name in study.bounds if name.startswith("trm_")]
    found = [study.bounded(name) for name in names]
    worst = ", ".join(f"{name[4:]} {ratio:.2f}" for name, (_, _, ratio) in zip(names, found, strict=True))
    return Evidence(
        chain and all(f[0] for f in found), found[0][1] * len(found), max(f[2] for f in found), f"worst ratio: {worst}"
    )


def theorem1_eq8(study: Study) -> Evidence:
    """The closed form for Eq. 8 equals the greedy and the simplex optimum; the bound holds."""
    holds, count, worst = study.bounded("theorem1_eq8")
    gap = 0.0
    for horizon, w_min in ((2, 1.0), (4, 1.0), (16, 0.8), (64, 0.8), (128, 0.5)):
        budget = Budget.linear(horizon, DELTA, DELTA_B, w_min)
        programme = prog.theorem1_program(budget, res.suffix_sums(np.full(horizon, min(1, DELTA / w_min))))
        value = prog.greedy(*programme)[0]
        gap = max(gap, abs(value - prog.linear_program(*programme)), abs(value - res.theorem1_eq8(budget)))
    return Evidence(holds and gap < 1e-7, count + 5, worst, f"closed form = greedy = linprog to {gap:.0e}")


def path_budget_eq8(study: Study) -> Evidence:
    """F4 for Eq. 8: B is the fill from the end, in every form; the bound holds on every policy inside Eq. 8."""
    holds, count, worst = study.bounded("path_algorithm")
    gap = 0.0
    rng = np.random.default_rng(study.seed)
    for horizon, form in product((1, 2, 8, 32, 128), get_args(Form)):
        budget = Budget.linear(horizon, rng.uniform(0, 0.6), rng.uniform(0, 0.2), rng.uniform(0.2, 1), form)
        gap = max(gap, abs(prog.greedy(1 / budget.weights, budget.caps, budget.limits)[0] - budget.path_divergence))
    budgets = {t: Budget.linear(t, DELTA, DELTA_B, W_MIN) for t in TABLE}
    grid = {t: sh.path_budget(budget.path_divergence) for t, budget in budgets.items()}
    found = [(res.uniform_rule(t, DELTA), res.theorem1_eq8(budget), grid[t]) for t, budget in budgets.items()]
    return Evidence(
        holds and gap < 1e-9 and np.allclose(found, [row[:3] for row in TABLE.values()], rtol=2e-3),
        count + 20,
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
    """The causal water-filling gate meets Eq. 8 on every path, and keeps the first token's gate as open as I_1."""
    worst = -np.inf
    for item in study.pool:
        budget = Budget.linear(item.pair.horizon, DELTA, DELTA_B, W_MIN)
        gates = fam.waterfill_gates(item.pair, budget)
        worst = max(worst, float(gt.excess_over(fam.apply_gate(item.pair, gates), budget)))
        worst = max(worst, float((gt.hard_gates(item.pair, budget, count_kept_only=True)[0] - gates[0]).max()))
    return Evidence(worst < 1e-12, len(study.pool), None, f"largest excess over the budget {worst:.0e}")


def thresholds(study: Study) -> Evidence:
    """Designs certify what they promise; the largest useful horizons are those of REACH."""
    error = 0.0
    for row in dsg.design_table(0.5, horizons=(16, 1024, 8192)):
        for method, d in row.items():
            bound = dsg.certified_residual(d.horizon, d.delta, d.delta_b, d.w_min, 1.0, method)
            error = max(error, abs(bound - 0.5))
    methods: tuple[dsg.Method, ...] = ("uniform", "theorem1", "path")
    found = [tuple(dsg.largest_horizon(*values, method=m) for m in methods) for values in REACH]
    return Evidence(
        error < 1e-6 and found == list(REACH.values()),
        24,
        None,
        f"largest T with residual < 2 xi: {found[0]} and {found[2]}",
    )


def certificate(study: Study) -> Evidence:
    """The rollout certificate's 95% intervals cover the exact L', F2 and U."""
    draws = 500
    shares = coverage(draws, seed=study.seed)
    text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    honest = shares.pop("gain") > 0.97
    return Evidence(
        honest and all(abs(share - 0.95) < 0.03 for share in shares.values()),
        draws,
        None,
        f"coverage of nominal 95%: {text}",
    )
