"""Checks of corrections to our own pages and readings: each with the smallest counterexample; and three questions."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from minicppo.bounds import residual as res
from minicppo.bounds import sharper as sh
from minicppo.bounds.budget import Budget
from minicppo.bounds.certificate import KINDS, certify
from minicppo.bounds.mean_program import mean_budget_eq8
from theory import families as fam
from theory import gate as gt
from theory import pair_bounds as pb
from theory import programs as prog
from theory import tabular as tab
from theory.ascent import ascend
from theory.study import DELTA, DELTA_B, W_MIN, Evidence, Study


def hidden_branch(study: Study) -> Evidence:
    """Correction 1: J falls by .05 through a token that no batch shows; the mean ratio gives it away every time."""
    rng = np.random.default_rng(study.seed)
    mu, pi, rewards = np.array([0.5, 0.5, 1e-9]), np.array([0.45, 0.35, 0.2]), np.array([1.0, 0.0, 0.0])
    positive = refused = certified = 0
    for _ in range(200):
        token = rng.choice(3, 800, p=mu / mu.sum())
        x = np.log(pi / mu)[token][:, None]
        tv = np.full_like(x, tab.total_variation(mu, pi))
        found = certify(x, 0 * x, rewards[token], np.ones_like(x), np.arange(800) // 8, tv, resamples=50)
        positive, refused = positive + (found.gain.low > 0), refused + found.refused
        certified += any(map(found.certifies, KINDS))
    return Evidence(
        positive == refused == 200 and certified == 0,
        200,
        None,
        f"mu=(.5,.5,1e-9), pi=(.45,.35,.2), R=(1,0,0): L' less F2 above 0 in {positive} of 200, refused in {refused}",
    )


def masked_objective(study: Study) -> Evidence:
    """Correction 2: the masked objective drops where a gate closes, and the gradient does not see it."""
    theta, values = 0.0, []
    for _ in range(4):
        chance = float(expit(theta))
        kept = abs(chance - 0.5) <= DELTA
        values.append(kept * (chance - 0.5))
        theta += kept * chance * (1 - chance)
    trace = ascend("masked", 200, Budget.linear(4)).objective.mean(axis=1)
    return Evidence(
        np.allclose(values, [0, 0.062, 0.122, 0], atol=1e-3) and trace[5] > 0.02 and abs(trace[-1]) < 0.005,
        41,
        None,
        f"V=2, unit steps: {', '.join(f'{v:.2f}' for v in values)}; "
        f"40 tasks: {trace[5]:+.3f} at step 5, {trace[-1]:+.3f} at 200",
    )


def gate_on_the_gradient(study: Study) -> Evidence:
    """A gradient times the water-filling gate keeps pushing pi; the mask, and T3's own gradient, let it rest."""
    budget = Budget.linear(4)
    drift = {k: ascend(k, 200, budget, tasks=20).drift.mean(axis=1)[[50, 200]] for k in ("masked", "gradient")}
    (mask, masked), (early, late) = drift["masked"], drift["gradient"]
    return Evidence(
        late > 1.8 * masked and late - early > 10 * abs(masked - mask),
        40,
        None,
        f"U of pi after 50 and 200 steps: masked {mask:.2f}, {masked:.2f}; gated gradient {early:.2f}, {late:.2f}",
    )


def missing_support(study: Study) -> Evidence:
    """Correction 3: F1's half range, F3, F4 and Theorem B all fail without pi << mu; functions of a pair refuse it."""
    pair = tab.Pair((np.array([[1.0, 0.0]]),), (np.array([[0.9, 0.1]]),), np.ones(1))
    rewards, budget = np.array([0.0, 1.0]), Budget(DELTA, DELTA_B, np.ones(1))
    delta = abs(float(tab.residual(pair, rewards)))
    claims = [pb.worst_reward(pair, 0.5), sh.cap_theorem(pair.caps, 0.5), sh.path_budget(0.1, 0.5)]
    promised = float(pair.excess[0][0, 0] * -1) - sh.path_budget(budget.path_divergence)  # R = -1, b = 0, gate open
    refusals = 0
    for refuses in (
        lambda: pb.pair_certificate(pair),
        lambda: pb.unrolled(pair),
        lambda: pb.largest_chi_square(pair),
        lambda: gt.gated_lower_bound(pair, budget, gt.hard_gates(pair, budget), -np.ones(2), np.zeros(1)),
    ):
        try:
            refuses()
        except ValueError:
            refusals += 1
    return Evidence(
        abs(delta - 0.1) < 1e-12 and max(claims) < delta and abs(promised - 0.055) < 1e-12 and refusals == 4,
        2,
        None,
        f"mu=(1,0), pi=(.9,.1): |Delta|={delta:.1f}, claimed {', '.join(f'{float(c):.2f}' for c in claims)}; "
        f"Theorem B promises {promised:+.3f}, true 0",
    )


def sharp_in_mean(study: Study) -> Evidence:
    """Correction 4: in expectation Theorem 1 is sharp for T l << 1 only; T2 beats it from T = 7 on."""

    def spent(horizon: int) -> float:  # the largest U under Eq. 5
        return Budget.linear(horizon, DELTA, DELTA_B, W_MIN, "theorem").path_divergence

    even, first = (
        next(t for t in range(2, 99) if sh.mean_budget(total(t)) < res.theorem1(t, DELTA, DELTA_B, W_MIN))
        for total in (lambda t: t * DELTA_B, spent)
    )
    ratios = []
    for horizon in (16, 64):
        budget = Budget.linear(horizon, DELTA, DELTA_B, W_MIN)
        ratios.append(res.theorem1_eq8(budget) / mean_budget_eq8(budget))
    price = 1 - (1 - DELTA / W_MIN) ** np.arange(63, -1, -1)  # of a token's drift, T2 at T = 64
    return Evidence(
        (even, first) == (7, 8) and np.allclose(ratios, [3.4, 11.6], atol=0.05) and bool((price[:-16] > 0.95).all()),
        3,
        None,
        f"2 xi U below it from T={even} if every u_t is delta_b, {first} at the largest U; "
        f"Eq. 8's form {ratios[0]:.1f} times loose at T=16, {ratios[1]:.1f} at 64; "
        "T2's price of a token is flat but for the last 3 / l",
    )


def closed_gates(study: Study) -> Evidence:
    """Correction 8: |J(pi) - J(pi_g)| <= 2 xi E_pi sum (1 - g_t) D_t, for hard and for soft gates."""
    rng = np.random.default_rng(study.seed)
    violation, ratios = -np.inf, []
    for item in study.pool:
        budget = Budget.linear(item.pair.horizon, rng.uniform(0.05, 0.4), rng.uniform(0, 0.1), rng.uniform(0.3, 1))
        gates = gt.hard_gates(item.pair, budget)
        limit, before = 2 * gt.closed_divergence(item.pair, gates), 2 * gt.gate_failure(item.pair, gates)
        gated = fam.apply_gate(item.pair, gates)
        moved = float(abs(item.pair.reach_pi[-1] - gated.reach_pi[-1]).sum())  # the worst reward, xi = 1
        soft = fam.waterfill_gates(item.pair, budget)
        soft_moved = float(abs(item.pair.reach_pi[-1] - fam.apply_gate(item.pair, soft).reach_pi[-1]).sum())
        violation = max(violation, moved - limit, soft_moved - 2 * gt.closed_divergence(item.pair, soft))
        ratios += [before / limit] if limit > 1e-9 else []
    return Evidence(
        violation < 1e-9,
        len(study.pool),
        None,
        f"median {np.median(ratios):.1f} times tighter than the probability that a gate closes",
    )


def linearly(study: Study) -> Evidence:
    """Correction 9: linear in the horizon for B > 1 only; below, quadratic."""
    short, middle = (prog.exact_supremum(Budget.linear(t)) for t in (16, 32))
    low, high = (Budget.linear(t).path_divergence for t in (16, 32))
    return Evidence(2.4 < middle / short < 2.7 and low < high < 1, 2, None, f"T = 16 to 32: times {middle / short:.1f}")


def outside_theorem_b(study: Study) -> Evidence:
    """Correction 10: Theorem B needs A = R - b with b fixed: a standard deviation, 1/|y| or a ratio cap void it."""
    budget, one = Budget(DELTA, DELTA_B, np.ones(1)), np.ones(1)
    residual = sh.path_budget(budget.path_divergence, 0.5)
    gaps = {}
    rare = tab.Pair((np.array([[0.01, 0.99]]),), (np.array([[0.06, 0.94]]),), one)
    rewards = np.array([1.0, 0.0])
    gaps["std"] = (
        float(tab.surrogate(rare, rewards)) / np.sqrt(0.01 * 0.99) - residual - float(tab.improvement(rare, rewards))
    )
    up = tab.Pair((np.array([[0.01, 0.99]]),), (np.array([[0.11, 0.89]]),), one)
    capped = float(up.mu[0][0] @ ((np.minimum(1 + up.excess[0][0], 2) - 1) * -rewards))
    gaps["ratio cap"] = capped - residual - float(tab.improvement(up, -rewards))
    # The first token ends the response (reward .8) or goes on to a second one (reward 1): A / |y| prefers to stop.
    stops = tab.Pair(
        (np.array([[0.5, 0.5]]), np.full((2, 2), 0.5)), (np.array([[0.65, 0.35]]), np.full((2, 2), 0.5)), one
    )
    by_token = np.array([0.8, 0.8, 0.5, 0.5])  # R / |y|
    two = sh.path_budget(Budget.linear(2).path_divergence, 0.1)  # the range of R is .2
    gaps["1/|y|"] = (
        float(tab.surrogate(stops, by_token)) - two - float(tab.improvement(stops, np.array([0.8, 0.8, 1, 1])))
    )
    text = ", ".join(f"{name} by {gap:.2f}" for name, gap in gaps.items())
    return Evidence(min(gaps.values()) > 0, 3, None, f"the promise exceeds the truth: {text}")


def sampled_divergence(study: Study) -> Evidence:
    """|rho - 1| / 2 has mean D_t given the state, so its sums less sum D_t are a martingale; |pi - mu| is too low."""
    error, low, strict = 0.0, -np.inf, 0
    for item in study.pool:
        for mu, x, d in zip(item.pair.mu, item.pair.excess, item.pair.divergence, strict=True):
            error = max(error, float(abs((mu * abs(x)).sum(axis=1) / 2 - d).max()))
            binary = (mu * mu * abs(x)).sum(axis=1)  # E_mu of |pi - mu| at the sampled token
            low, strict = max(low, float((binary - d).max())), strict + int((binary < 0.9 * d).sum())
    return Evidence(
        error < 1e-9 and low < 1e-12 and strict > 0, len(study.pool), None, "Binary: never above, biased low for V > 2"
    )


def one_step(study: Study) -> Evidence:
    """A step that changes a state's logits by a vector of span omega moves its TV by at most tanh(omega / 4)."""
    rng = np.random.default_rng(study.seed)
    worst = 0.0
    for _ in range(3000):
        vocab = int(rng.integers(2, 9))
        logits, step = rng.normal(0, 2, vocab), rng.normal(0, rng.uniform(0.01, 3), vocab)
        moved = tab.total_variation(softmax(logits), softmax(logits + step))
        worst = max(worst, float(moved / np.tanh(np.ptp(step) / 4)))
    attained = [
        float(tab.total_variation(expit([-k / 2, k / 2]), expit([k / 2, -k / 2])) / np.tanh(k / 4)) for k in (0.1, 2)
    ]
    return Evidence(
        worst <= 1 + 1e-9 and np.allclose(attained, 1), 3002, worst, "attained by V = 2, logits -k/2 to k/2"
    )


def bretagnolle_huber(study: Study) -> Evidence:
    """TV(P_mu, P_pi) <= sqrt(1 - e^-KL): with the chain rule a bound on J that is below 2 xi at any horizon."""
    violation, below, count = -np.inf, 0, 0
    for item in study.pool:
        kl = tab.sequence_kl(item.pair)
        if np.isfinite(kl):
            tv = float(tab.total_variation(item.pair.reach_mu[-1], item.pair.reach_pi[-1]))
            limit = float(np.sqrt(-np.expm1(-kl)))
            violation, below, count = max(violation, tv - limit), below + (limit < np.sqrt(kl / 2)), count + 1
    return Evidence(
        violation < 1e-9 and below > 0, count, None, f"below Pinsker's bound in {below / count:.0%} of pairs"
    )
