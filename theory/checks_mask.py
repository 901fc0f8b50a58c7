"""Checks of statements about the mask and its gates: what they guarantee and what they do not."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from minicppo.bounds.budget import Budget, linear_weights
from theory import families as fam
from theory import flow
from theory import gate as gt
from theory import tabular as tab
from theory.study import DELTA, DELTA_B, W_MIN, Evidence, Study


def violation_score(study: Study) -> Evidence:
    """C.1: x_t <= 1 iff I_t, exact in rationals; floats disagree on ties."""
    rng = np.random.default_rng(study.seed)
    horizon, draws = 6, 2000
    exact = Budget(Fraction(15, 100), Fraction(2, 100), np.array([Fraction(1)] * horizon, dtype=object))
    rounded = Budget(DELTA, DELTA_B, np.ones(horizon))
    mismatches = ties = 0
    for row in rng.integers(0, 19, (draws, horizon)):
        fractions = np.array([Fraction(int(c), 100) for c in row], dtype=object)
        floats = row / 100
        spent, spent_f = np.cumsum(fractions) - fractions, np.cumsum(floats) - floats
        for t in range(horizon):
            truth = gt.keeps(exact, t, fractions[t], spent[t])
            mismatches += truth != (gt.violation_score(exact, t, fractions[t], spent[t]) <= 1)
            ties += truth != bool(gt.keeps(rounded, t, floats[t], spent_f[t]))
    share = ties / (draws * horizon)
    return Evidence(
        mismatches == 0,
        draws * horizon,
        None,
        f"exact in rationals; on a 0.01 grid float64 flips {share:.2%} of decisions",
    )


def gate_admissible(study: Study) -> Evidence:
    """C.1: x g(x) <= 1, so the soft gate keeps g Z <= delta at every state."""
    worst, count = 0.0, 0
    for item in study.pool:
        if item.family not in ("dirichlet", "logit noise"):
            continue
        budget = Budget.linear(item.pair.horizon, DELTA, DELTA_B, W_MIN)
        gated = fam.apply_gate(item.pair, gt.soft_gates(item.pair, budget))
        z = np.array([w * d.max() for w, d in zip(budget.weights, gated.divergence, strict=True)])
        worst, count = max(worst, float(z.max()) / DELTA), count + 1
    return Evidence(worst <= 1 + 1e-12, count, worst, "token cap only; ratio = g Z / delta")


def soft_gate_prefix(study: Study) -> Evidence:
    """C.3: the soft gate counts the un-gated sum, so the gated policy can exceed the prefix budget."""

    def gated_sum(budget: Budget) -> np.ndarray:
        z = np.full(budget.horizon, DELTA)
        score = [gt.violation_score(budget, t, z[t], z[:t].sum()) for t in range(budget.horizon)]
        return np.asarray(np.cumsum(z / np.maximum(1, score)))

    bare = gated_sum(Budget(DELTA, 0.0, np.ones(1000)))
    usual = Budget(DELTA, DELTA_B, np.ones(64))
    ratios = gated_sum(usual) / usual.limits
    small = Budget(DELTA, DELTA_B, np.ones(3))
    pair = fam.rare_token(np.full(3, DELTA), 2.0**-20)
    soft = gt.excess_over(fam.apply_gate(pair, gt.soft_gates(pair, small)), small)
    filled = gt.excess_over(fam.apply_gate(pair, fam.waterfill_gates(pair, small)), small)
    return Evidence(
        soft > 0.05
        and filled < 1e-12
        and abs(ratios.max() - 1.77) < 5e-3
        and ratios.argmax() == 7
        and bool(np.isclose(bare[-1], DELTA * (1 / np.arange(1, 1001)).sum())),
        3,
        float(ratios.max()),
        f"Z_t=.15 always: gated sum {ratios.max():.2f}x its budget at t={ratios.argmax() + 1}; "
        f"delta_b=0: {bare[-1]:.2f} against .15 at t=1000",
    )


def figure1_rule(study: Study) -> Evidence:
    """Figure 1 draws S_t / W_t <= delta_b; Eq. 10 allows the initial slack. The first implies the second only."""
    rng = np.random.default_rng(study.seed)
    implied, differ, count = True, 0, 0
    for _ in range(4000):
        horizon = int(rng.integers(1, 12))
        budget = Budget.linear(horizon, DELTA, DELTA_B, W_MIN)
        z = budget.weights * rng.exponential(DELTA_B, horizon)
        figure = (np.cumsum(z) <= DELTA_B * np.cumsum(budget.weights)) & (z <= DELTA)
        rule = np.array([bool(gt.keeps(budget, t, z[t], z[:t].sum())) for t in range(horizon)])
        implied &= bool((rule | ~figure).all())
        differ, count = differ + int((rule & ~figure).sum()), count + horizon
    return Evidence(
        implied and differ > 0,
        count,
        None,
        f"D_1=.1: Eq. 10 keeps, Figure 1 masks; {differ / count:.0%} of random decisions differ",
    )


def kept_sum(study: Study) -> Evidence:
    """S_t within budget is true of tokens kept although they move away, not of all kept tokens."""
    rng = np.random.default_rng(study.seed)
    broken, invariant, count = 0, True, 4000
    for _ in range(count):
        horizon = int(rng.integers(2, 20))
        budget = Budget.linear(horizon, DELTA, DELTA_B, W_MIN)
        z, away = budget.weights * rng.exponential(0.05, horizon), rng.random(horizon) < 0.5
        sums = np.cumsum(z)
        inside = np.array([bool(gt.keeps(budget, t, z[t], sums[t] - z[t])) for t in range(horizon)])
        broken += bool((sums > budget.limits + 1e-12)[inside | ~away].any())
        invariant &= bool((np.cumsum(z * (inside & away)) <= budget.limits + 1e-12).all())
    return Evidence(
        invariant and broken > 0,
        count,
        None,
        "D_1=1 masked, y_2 toward mu kept: "
        f"S_2 >= 1 > .17 ({broken / count:.0%} of random responses); kept-away sums obey it",
    )


def allowance(study: Study) -> Evidence:
    """The allowance is a queue: slack grows by w_t (delta_b - D_t), so a quiet prefix lets it grow."""
    rng = np.random.default_rng(study.seed)
    budget = Budget.linear(50, DELTA, DELTA_B, W_MIN)
    error = 0.0
    for _ in range(200):
        d = rng.exponential(DELTA_B, 50)
        slack = budget.limits - (np.cumsum(budget.weights * d) - budget.weights * d)
        error = max(error, float(abs(np.diff(slack) - (budget.weights * (DELTA_B - d))[:-1]).max()))
    quiet = np.minimum(DELTA, budget.limits) / budget.weights
    after_one = min(DELTA, budget.limits[1] - 1)  # c_2 after D_1 = 1
    found = [quiet[0], quiet[-1], after_one]
    return Evidence(
        error < 1e-12 and bool((np.diff(quiet) > 0).all()) and np.allclose(found, [0.15, 0.1875, -0.83]),
        200,
        None,
        f"D=0 so far: raw allowance rises from {quiet[0]:.2f} to {quiet[-1]:.4f}; D_1=1: c_2={after_one:.2f}",
    )


def dynamic_budget(study: Study) -> Evidence:
    """delta_b from the response's own 90th percentile: sandwiched, neither causal nor a gate on states."""

    def keeps_all(d: np.ndarray, floor: float, fixed: float | None = None) -> np.ndarray:
        delta_b = np.clip(np.quantile(d, 0.9), floor, 2 * floor) if fixed is None else fixed
        return flow.tests_along(Budget(DELTA, delta_b, np.ones(len(d))), d)

    quiet = np.array([0.12, 0.06] + [0.0] * 19)
    later = quiet.copy()
    later[-1] = 0.04
    flips = not keeps_all(quiet, DELTA_B)[1] and bool(keeps_all(later, DELTA_B)[1])
    rng = np.random.default_rng(study.seed)
    sandwich, bias = True, 0.0
    for _ in range(40):
        pair = fam.mixture(fam.random_pair(rng, 4, 3), 0.4)
        paths = pair.path_divergence.T
        kept = np.array([keeps_all(d, 0.08) for d in paths])
        low, high = (np.array([keeps_all(d, 0.08, b) for d in paths]) for b in (0.08, 0.16))
        sandwich &= bool((low <= kept).all() and (kept <= high).all())
        bias = max(bias, float(abs((pair.reach_mu[-1] * kept.T * pair.path_excess).sum(axis=1)).max()))
    return Evidence(
        flips and sandwich and bias > 1e-4,
        40,
        None,
        f"raising D_21 from 0 to .04 unmasks token 2; E_mu[g_t (rho_t - 1)] up to {bias:.4f}, not 0; "
        "masks lie between delta_b and 2 delta_b",
    )


def topk_score(study: Study) -> Evidence:
    """A reduced TV is a lower bound, so its mask keeps more; adding min of the rest masses restores the guarantee."""
    mu, pi = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.4, 0.0, 0.0, 0.6])

    def reduced(mu: np.ndarray, pi: np.ndarray, k: int) -> tuple[float, float]:
        top = np.argsort(-mu)[:k]
        rest_mu, rest_pi = 1 - mu[top].sum(), 1 - pi[top].sum()
        return (abs(mu - pi)[top].sum() + abs(rest_mu - rest_pi)) / 2, min(rest_mu, rest_pi)

    score, exact = reduced(mu, pi, 1)[0], float(tab.total_variation(mu, pi))
    rng = np.random.default_rng(study.seed)
    bracket = True
    for p, q in zip(rng.dirichlet(np.full(8, 0.5), 20000), rng.dirichlet(np.full(8, 0.5), 20000), strict=True):
        low, rest = reduced(p, q, 3)
        true = tab.total_variation(p, q)
        bracket &= bool(low - 1e-12 <= true <= low + rest + 1e-12)
    return Evidence(
        bracket and score < 1e-12 < exact,
        20001,
        None,
        f"mu=(.4,.3,.2,.1), pi=(.4,0,0,.6), K=1: score 0, TV {exact:.1f}; repair: "
        "score <= TV <= score + min(rest masses)",
    )


def binary_score(study: Study) -> Evidence:
    """|pi - mu| at the sampled token depends on that token: its gate has a mean drift."""
    mu, pi = np.array([0.6, 0.2, 0.2]), np.array([0.4, 0.3, 0.3])
    kept = abs(pi - mu) <= DELTA
    drift = float((pi - mu)[kept].sum())
    exact = float(tab.total_variation(mu, pi))
    rng = np.random.default_rng(study.seed)
    p, q = rng.dirichlet(np.ones(5), (2, 20000))
    below = bool((abs(p - q).max(axis=1) <= tab.total_variation(p, q) + 1e-12).all())
    return Evidence(
        below and abs(drift - 0.2) < 1e-12 and exact > DELTA,
        20001,
        None,
        f"mu=(.6,.2,.2), pi=(.4,.3,.3): TV {exact:.1f} > .15, "
        f"yet tokens 2, 3 are kept and E_mu[g (rho - 1)] = {drift:.1f}, not 0",
    )


def realised_length(study: Study) -> Evidence:
    """w_t by the response's own length looks ahead, and its ratio (T_max - t) / w_t may rise."""
    d = 0.18
    short, long = (linear_weights(n, W_MIN)[1] * d <= DELTA for n in (2, 100))
    count, agrees = 0, True
    for horizon in (16, 32, 64):
        for length in range(2, horizon + 1):
            ratio = (horizon - np.arange(1, length + 1)) / linear_weights(length, W_MIN)
            rises = bool((np.diff(ratio) > 1e-12).any())
            agrees &= rises == (length - 1 < (1 - W_MIN) * (horizon - 1) - 1e-9)
            count += 1
    return Evidence(
        agrees and bool(short) and not long,
        count,
        None,
        "D_2=.18: kept if the response ends at 2, masked if it runs to 100; EOS with D=0 repairs",
    )


def projection(study: Study) -> Evidence:
    """The mask stops gradients, it projects nothing: overshoot, shared parameters, late tokens first."""
    overshoot = float(flow.shared_parameter_flow(np.ones(1), Budget(DELTA, DELTA_B, np.ones(1)), step=1.0).final[0])
    budgets = (Budget(DELTA, delta_b, np.ones(2)) for delta_b in (DELTA_B, 1.0))
    leak, dppo = (flow.shared_parameter_flow(np.array([0.2, 4.0]), budget).final for budget in budgets)
    tall = Budget(DELTA, DELTA_B, np.ones(64))
    backwards, together = flow.fill_last_to_first(tall).sum(), flow.fill_together(64, DELTA, DELTA_B).sum()
    simulated = flow.simulate_together(tall).sum()
    return Evidence(
        np.allclose([overshoot, *leak, backwards, together], [0.231, 0.15, 0.5, 9.6, 1.8967], atol=1e-3)
        and np.allclose(leak, dppo)
        and np.isclose(tall.limits[-1], 1.41)
        and abs(simulated - together) < 0.01,
        4,
        None,
        f"one unit step: D={overshoot:.3f}; shared slopes (.2,4): S_2={leak.sum():.2f} > .17; "
        "T=64 filled from the end: "
        f"{backwards:.1f}, together {together:.2f}, budget {tall.limits[-1]:.2f}",
    )


def budget_holds(study: Study) -> Evidence:
    """Where an early token leads, the prefix budget stops a late one and DPPO does not."""
    slopes = np.array([4.0, 0.2])
    cppo = flow.shared_parameter_flow(slopes, Budget(DELTA, DELTA_B, np.ones(2))).final
    dppo = flow.shared_parameter_flow(slopes, Budget(DELTA, 1.0, np.ones(2))).final
    return Evidence(
        np.allclose([cppo.sum(), cppo[0], *dppo], [0.17, 0.162, 0.5, 0.15], atol=1e-3),
        2,
        None,
        f"slopes (4,.2): CPPO stops at S_2={cppo.sum():.3f} (D_1={cppo[0]:.3f}), DPPO at {dppo.sum():.2f}",
    )


def toward_terms(study: Study) -> Evidence:
    """A kept toward-mu token can still raise the TV when V >= 3."""
    rate = flow.toward_step_tv_rate(np.array([0.8, 0.1, 0.1]), np.array([0.75, 0.05, 0.2]), 1, 1)
    rng = np.random.default_rng(study.seed)
    rising = {2: 0, 4: 0}
    draws = 4000
    for vocab in rising:
        for mu, pi in zip(*rng.dirichlet(np.ones(vocab), (2, draws)), strict=True):
            token = int(rng.choice(vocab, p=mu))
            rising[vocab] += flow.toward_step_tv_rate(mu, pi, token, 1 if pi[token] < mu[token] else -1) > 1e-12
    return Evidence(
        rising[2] == 0 < rising[4] and abs(rate - 0.071) < 1e-9,
        2 * draws + 1,
        None,
        f"mu=(.8,.1,.1), pi=(.75,.05,.2), y=2: dTV/deta=+{rate:.3f}; "
        f"{rising[4] / draws:.1%} of draws at V=4, none at V=2",
    )


def sequence_rejection(study: Study) -> Evidence:
    """TRM: rejecting samples removes their gradient, not their change; it must verify the FINAL policy."""
    mu, pi = np.full((2, 2), 0.5), np.array([[0.55, 0.45], [0.1, 0.9]])
    pair = tab.Pair((mu,), (pi,), np.array([0.5, 0.5]))
    rewards = np.array([1.0, 0.0, 1.0, 0.0])
    accepted = np.repeat(pair.divergence[0] <= DELTA, 2)
    masked = float(pair.reach_mu[-1] @ (accepted * pair.path_excess[0] * rewards))
    change = float(tab.improvement(pair, rewards))
    return Evidence(masked > 0 > change, 1, None, f"two prompts: masked surrogate {masked:+.3f}, J moves {change:+.3f}")
