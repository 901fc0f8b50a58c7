"""Checks of T1 to T5, of the sharper forms of F4 and F6, and adversarial ascent on every bound. All ours."""

from __future__ import annotations

import numpy as np

from minicppo.bounds import design as dsg
from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds import step as stp
from minicppo.bounds.budget import Budget
from minicppo.bounds.mean_program import mean_budget_eq8
from theory import attack as atk
from theory import families as fam
from theory import gate as gt
from theory import long
from theory import pair_bounds as pb
from theory import programs as prog
from theory import tabular as tab
from theory.ascent import ascend
from theory.study import DELTA, DELTA_B, W_MIN, Evidence, Study

PAPER, BURST_TEN = (DELTA, DELTA_B, W_MIN), (0.01, 0.001, 1.0)


def exact_residual(study: Study) -> Evidence:
    """T1: xi E_mu |m - 1 - sum x| is F1, never above F2, F5 or T2."""
    worst, violation = 0.0, -np.inf
    for item, supremum in zip(study.pool, study.worst, strict=True):
        mu, x = item.pair.reach_mu[-1], item.pair.path_excess
        found = float(mu @ abs(np.prod(1 + x, axis=0) - 1 - x.sum(axis=0)))
        others = (pb.pair_certificate(item.pair), sh.expected_budget(item.pair.drift.sum()), pb.unrolled(item.pair))
        violation = max(violation, abs(found - supremum), found - min(map(float, others)))
        worst = max(worst, found / float(min(others))) if min(others) > 1e-9 else worst
    return Evidence(
        violation < 1e-9, len(study.pool), worst, "from the arrays a trainer logs; ratio to the best of the rest"
    )


def second_moment(study: Study) -> Evidence:
    """T1: E_mu (m - 1 - sum x)^2 = chi2(P_pi || P_mu) + E_mu sum v - 2 E_pi sum v."""
    pairs = [item.pair for item in study.pool if item.family != "rare token"]
    moments = np.array([pb.residual_moment(pair) for pair in pairs])
    error = float((abs(moments[:, 0] - moments[:, 1]) / (1 + moments.max(axis=1))).max())
    return Evidence(error < 1e-9, len(pairs), None, f"relative error {error:.0e}")


def truncated(study: Study) -> Evidence:
    """T1: for R >= 0, J(pi) - J(mu) >= E_mu[(min(m, c) - 1) R], also where pi leaves the support of mu."""
    rng = np.random.default_rng(study.seed)
    violation, pairs = -np.inf, [item.pair for item in study.pool[::3]]
    for _ in range(100):  # a support that misses tokens
        pair = fam.random_pair(rng, 3, 3)
        mu = tuple(np.where(rng.random(m.shape) < 0.3, 0, m) + np.eye(3)[2] * 1e-9 for m in pair.mu)
        pairs.append(tab.Pair(tuple(m / m.sum(axis=1, keepdims=True) for m in mu), pair.pi, pair.prior))
    for pair in pairs:
        rewards = rng.uniform(0, 1, len(pair.reach_mu[-1]))
        change = float(tab.improvement(pair, rewards))
        bounds = [pb.truncated_gain(pair, rewards, cap) for cap in (1, 2, 4, np.inf)]
        violation = max(violation, max(bounds) - change)
    return Evidence(
        violation < 1e-9, len(pairs), None, "bounded, so a limit by betting asks nothing of tails or support"
    )


def certificate_coverage(study: Study) -> Evidence:
    """T1 at T = 4 .. 8,192: intervals at their nominal rate, lower limits at no less."""
    rows = long.coverage(seed=study.seed)
    centred = [row[name] for row in rows.values() for name in ("L'", "xi |K|", "importance")]
    below = [row[name] for row in rows.values() for name in ("residual below", "betting below")]
    return Evidence(
        max(abs(share - 0.95) for share in centred) < 0.02 and min(below) >= 0.975,
        2000 * len(rows),
        None,
        f"nominal 95%: {min(centred):.1%} to {max(centred):.1%} at T = 4 .. 8192; "
        f"lower limits below the gain: {min(below):.1%}",
    )


def long_table(study: Study) -> Evidence:
    """At T = 8,192 the old limit is -6 to -25 and the new ones find most of the gain."""
    agrees, notes = True, []
    for tv, gain, surrogate, before, sampled, bet, decisive in long.TABLE:
        found = long.limits_of(long.with_values(tv, gain, surrogate, decisive), seed=study.seed)
        near = (found["J(pi), Student"] - sampled, found["J(pi), betting"] - bet)
        today = found["L' - F5"]
        agrees &= abs(today - before) < 0.1 and max(map(abs, near)) < 0.01
        agrees &= found["betting"] > 0.08 and max(found["betting"], found["importance"]) < gain
        notes.append(f"{today:.1f}, {found['betting']:.3f}, {gain}")
    return Evidence(agrees, 600, None, "lower limit, betting, true gain: " + "; ".join(notes))


def mean_bound(study: Study) -> Evidence:
    """T2: never violated in any form; never above Prop. 4, B.9, F3 or 2 xi U; attained at T = 2."""
    holds, count, worst = study.bounded("mean_caps")
    unrolled, _, _ = study.bounded("unrolled")
    plain, _, sharp = study.bounded("mean")
    rng = np.random.default_rng(study.seed)
    below = True
    for _ in range(2000):
        caps = rng.uniform(0, 1, rng.integers(1, 30)) ** rng.uniform(0.5, 6)
        u = caps * rng.uniform(0, 1, len(caps))
        others = res.proposition4(u, caps), res.product_form(u, caps), sh.cap_theorem(caps), sh.mean_budget(u.sum())
        below &= sh.mean_caps(u, caps) <= min(others) + 1e-12
    ratios = [_gain_of_t2(horizon) for horizon in (16, 64)]
    return Evidence(
        holds and unrolled and plain and bool(below) and sharp > 0.99 and np.allclose(ratios, [1.37, 1.78], atol=0.02),
        count + 2000,
        worst,
        f"u=.02, l=.1875: {ratios[0]:.2f} (T=16) and {ratios[1]:.2f} (T=64) times below the best of the others",
    )


def _gain_of_t2(horizon: int) -> float:
    u, caps = np.full(horizon, 0.02), np.full(horizon, 0.1875)
    best = min(res.product_form(u, caps), sh.cap_theorem(caps), sh.expected_budget(u.sum()))
    return float(best / sh.mean_caps(u, caps))


def mean_reach(study: Study) -> Evidence:
    """T2 under Theorem 1's premise in mean: the programme bounds what it relaxes; how far both reach."""
    rng = np.random.default_rng(study.seed)
    holds = True
    for _ in range(300):
        budget = Budget.linear(
            int(rng.integers(2, 12)), rng.uniform(0.02, 0.5), rng.uniform(0, 0.1), rng.uniform(0.3, 1)
        )
        wanted = rng.uniform(0, 1, budget.horizon) * budget.token_caps
        inside = min(1.0, float((budget.limits / np.cumsum(budget.weights * wanted)).min()))
        holds &= sh.mean_caps(inside * wanted, budget.token_caps.astype(float)) <= mean_budget_eq8(budget) + 1e-9
    found = {
        v: [dsg.largest_horizon(*v, method=m, share=0.5) for m in ("theorem1", "mean")] for v in (PAPER, BURST_TEN)
    }
    return Evidence(
        bool(holds) and list(found.values()) == [[7, 16], [215, 491]],
        300,
        None,
        f"largest T at half the range, Theorem 1, T2: {found[PAPER]} at .15/.02/.8, {found[BURST_TEN]} at .01/.001/1",
    )


def waterfilled(study: Study) -> Evidence:
    """T3 on the pool, and ascent on it: the masked surrogate falls back to 0 where T3's certifies an improvement."""
    rng = np.random.default_rng(study.seed)
    violation = -np.inf
    for item in study.pool[::2]:
        budget = Budget.linear(item.pair.horizon, rng.uniform(0.05, 0.4), rng.uniform(0, 0.1), rng.uniform(0.3, 1))
        rewards, baseline = rng.uniform(-1, 1, len(item.pair.reach_mu[-1])), rng.uniform(-1, 1, 1)
        change = float(tab.improvement(fam.budgeted(item.pair, budget), rewards))
        violation = max(violation, gt.waterfilled_lower_bound(item.pair, budget, rewards, baseline) - change)
    trace = ascend("waterfilled", 100, Budget.linear(4))
    end, gain = trace.guaranteed[-1].mean(), trace.gain[-1].mean()
    return Evidence(
        violation < 1e-12 and 0 < end < gain and bool((trace.guaranteed <= trace.gain + 1e-9).all()),
        len(study.pool) // 2 + 40,
        None,
        f"40 tasks, 100 steps: guaranteed {end:+.3f}, true gain {gain:+.3f}; the guarantee is continuous in pi",
    )


def best_step(study: Study) -> Evidence:
    """T4: the best budget solves (1 - B) e^-B = 1 - alpha; 1 at alpha = 1, about alpha / 2 for small alpha."""
    grid = np.linspace(1e-4, 1.2, 200001)
    error = 0.0
    for alpha in (0.05, 0.2, 0.45, 0.8, 1.0):
        budget, gain = stp.best_budget(alpha)
        error = max(error, abs((1 - budget) * np.exp(-budget) - 1 + alpha))
        error = max(error, abs(gain - (alpha * grid + grid * np.expm1(-grid)).max()))
    ends = [stp.best_budget(a)[0] for a in (1.0, 0.2, 0.45, 0.01)]
    return Evidence(
        error < 1e-6 and np.allclose(ends, [1, 0.108, 0.276, 0.005], atol=1e-3),
        5,
        None,
        f"alpha .2 to .45 of logged steps: B* {ends[1]:.2f} to {ends[2]:.2f}",
    )


def best_chi_square(study: Study) -> Evidence:
    """T4 for chi-square: at alpha = 1, C = .384 guarantees .33 sigma_R at any horizon."""
    budget, gain = stp.best_chi_square(1.0)
    grid = np.linspace(1e-4, 2, 100001)
    values = np.sqrt(grid) - np.array([sh.chi_square_budget(c) for c in grid[::50]]).repeat(50)[: len(grid)]
    near = abs(gain - values[::50].max()) < 1e-5
    return Evidence(bool(near) and abs(budget - 0.384) < 1e-3 and abs(gain - 0.33) < 1e-3, 1, None, f"C*={budget:.3f}")


def variance_budget(study: Study) -> Evidence:
    """T5: the variances of Q add up to that of R; L' <= sigma_R sqrt(E sum v), equality at pi = mu (1 + k A)."""
    rng = np.random.default_rng(study.seed)
    error, violation, attained, count = 0.0, -np.inf, 1.0, 0
    for item in study.pool[::5]:
        pair, rewards = item.pair, rng.uniform(-1, 1, len(item.pair.reach_mu[-1]))
        mu, spread = pair.reach_mu[-1], pb.action_variances(pair, rewards)
        sigma = np.sqrt(spread.sum())
        error = max(error, abs(spread.sum() - (mu @ rewards**2 - (mu @ rewards) ** 2)))
        violation = max(violation, _surrogate_over(pair, rewards) - sigma)
        steps = [
            q - (m * q).sum(axis=1, keepdims=True)
            for m, q in zip(pair.mu, pb.action_values(pair, rewards), strict=True)
        ]
        best = tab.Pair(pair.mu, tuple(m * (1 + 0.2 * a) for m, a in zip(pair.mu, steps, strict=True)), pair.prior)
        attained, count = min(attained, _surrogate_over(best, rewards) / sigma), count + 1
    return Evidence(
        error < 1e-9 and violation < 1e-9 and attained > 1 - 1e-6, count, attained, "attained by pi = mu (1 + k A)"
    )


def _surrogate_over(pair: tab.Pair, rewards: tab.Array) -> float:
    """L' / sqrt(E_mu sum v)."""
    v = pair.reach_mu[-1] @ pair.along_paths(pb.chi_squares(pair)).sum(axis=0)
    return float(tab.surrogate(pair, rewards) / np.sqrt(v)) if v > 1e-15 else 0.0


def deciding_tokens(study: Study) -> Evidence:
    """T5: if a share f of the tokens decides the reward, a uniform budget earns sqrt(f) of the best L'."""
    horizon, found = 8, {}
    mu = tuple(np.full((2**t, 2), 0.5) for t in range(horizon))
    for deciding in (1, 2, 4):
        bits = np.array([[leaf >> (horizon - 1 - t) & 1 for t in range(deciding)] for leaf in range(2**horizon)])
        rewards = bits.sum(axis=1).astype(float)
        pi = tuple(np.tile([0.45, 0.55], (2**t, 1)) for t in range(horizon))  # the same v at every token
        pair = tab.Pair(mu, pi, np.ones(1))
        found[deciding] = _surrogate_over(pair, rewards) / np.sqrt(pb.action_variances(pair, rewards).sum())
    agrees = all(abs(share - np.sqrt(deciding / horizon)) < 1e-9 for deciding, share in found.items())
    return Evidence(agrees, 3, None, "f = 1/8, 1/4, 1/2: " + ", ".join(f"{share:.3f}" for share in found.values()))


def ratio_band(study: Study) -> Evidence:
    """T5: with |rho - 1| <= c, v <= 2 c D at every state; reach at a mean TV of 1e-3 by bound."""
    holds, count, worst = study.bounded("band")
    mean_tv, spent = 1e-3, 1.1462
    reach = [0.5, 0.5**0.5, 0.8010, 0.8638, spent / 0.4, spent / 4 / mean_tv, spent / 100 / mean_tv]
    values = [
        sh.mean_budget(reach[0], 0.5),
        sh.path_budget(reach[1], 0.5),
        sh.path_budget_exact(reach[2], 0.5),
        sh.path_budget_capped(reach[3], 1e-6, 0.5),
        sh.ratio_band(reach[4], 0.2, 0.5),
        *(sh.chi_square_budget(4 * kappa * mean_tv * b, 0.5) for kappa, b in ((1, reach[5]), (25, reach[6]))),
    ]
    horizons = ", ".join(f"{b / mean_tv:,.0f}" for b in reach)
    return Evidence(holds and np.allclose(values, 0.5, atol=5e-4), count + 7, worst, f"T at residual .5: {horizons}")


def path_exact(study: Study) -> Evidence:
    """F4 without caps, B <= 1: 4 xi (B - 1 + e^-B), approached by spending the budget a little at a time, one way."""
    holds, count, worst = study.bounded("path_exact")
    totals = np.linspace(0.01, 4, 200)
    order = all(sh.path_budget_exact(b) <= sh.path_budget(b) + 1e-12 for b in totals)
    values = [prog.exact_supremum(Budget(b, 0.0, np.ones(16)), cells=48) / sh.path_budget_exact(b) for b in (0.3, 1.0)]
    return Evidence(
        holds and order and 0.9 < min(values) <= max(values) <= 1, count, worst, f"F6 over it: {values[1]:.3f} at B=1"
    )


def path_capped(study: Study) -> Evidence:
    """Correction 5: with small caps the supremum tends to 2 xi B (1 - e^-B), 86 % of F4 at B = 2, not to F4."""
    holds, count, worst = study.bounded("path_capped")
    shares = [sh.cap_theorem(np.full(4000, b / 4000)) / sh.path_budget(b) for b in (2.0, 4.0)]
    limit = [sh.path_budget_capped(b, b / 4000) / sh.path_budget(b) for b in (2.0, 4.0)]
    needed = dsg.design_thresholds(8192, 0.5, 1.0, 7.5, W_MIN, "path")
    divide = DELTA / needed.delta * dsg.path_for(0.5, 0.5) / 0.8638  # B where B (1 - e^-B) = 1/2
    return Evidence(
        holds and np.allclose(shares, limit, atol=1e-3) and abs(shares[0] - 0.8647) < 1e-3 and abs(divide - 210) < 1,
        count + 4,
        worst,
        f"B=2: {shares[0]:.3f} of F4; at T=8192 the paper's values divided by {divide:.0f}, not 257",
    )


def three_tokens(study: Study) -> Evidence:
    """Correction 6: F6 is attained by three tokens for any T; at T = 3 two are enough, against what we were told."""
    ratios = []
    for horizon in range(2, 8):
        budget = Budget(DELTA, DELTA_B, np.ones(horizon))
        pair = prog.worst_pair(budget)
        inside = float(gt.excess_over(pair, budget)) < 1e-9 and pair.supported
        ratios.append(float(pb.worst_reward(pair)) / prog.exact_supremum(budget, cells=15) if inside else 0.0)
    # Two tokens: a third of the budget a step while the likely token is written, the rest at once after the rare one.
    budget, step, rare = Budget(DELTA, DELTA_B, np.ones(3)), (DELTA + 2 * DELTA_B) / 3, 2.0**-30
    mu = tuple(np.tile([1 - rare, rare], (2**t, 1)) for t in range(3))
    spends = (np.array([step]), np.array([step, 0]), np.array([step, step, 2 * step, 2 * step]))
    pair = tab.Pair(mu, tuple(m + d[:, None] * np.array([-1, 1]) for m, d in zip(mu, spends, strict=True)), np.ones(1))
    two = float(pb.worst_reward(pair)) / prog.exact_supremum(budget, cells=300)
    return Evidence(
        abs(np.array(ratios) - 1).max() < 1e-6 and float(gt.excess_over(pair, budget)) < 1e-9 and 0.9995 < two < 1.0005,
        7,
        min(ratios),
        f"attained to 1e-8 for T = 2 .. 7; two tokens at T = 3: {two:.4f} of the grid value",
    )


def adversarial_ascent(study: Study) -> Evidence:
    """1,000 starts that climb |Delta| over every bound: none passes 1."""
    worst = atk.attack(seed=study.seed)
    text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in worst.items())
    return Evidence(max(worst.values()) <= 1 + 1e-9, 1000, max(worst.values()), text)
