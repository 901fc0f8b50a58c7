"""Plausible statements about the mask that are false, each with its counterexample (theory.md section 5)."""

import math

from minicppo import reference
from tests.rules.strategies import Limits, Response, drifting
from tests.rules.twins import TWINS, mask, steps

PAPER = Limits(0.15, 0.02, 0.8)
FLAT = PAPER._replace(w_min=1.0)


def verdict(D: list[float], lim: Limits, budget: str = "fixed") -> list[bool]:
    """What both twins keep of a response that moves away everywhere."""
    fast, by_loop = (keeps(drifting(D), lim, budget=budget) for keeps in TWINS)
    assert fast == by_loop
    return fast


def test_smaller_w_min_may_mask():
    """False: a smaller w_min only relaxes. It shrinks the deposits too."""
    assert verdict([0.26, 0, 0.03], Limits(0.1, 0.1, 1.0))[2]
    assert not verdict([0.26, 0, 0.03], Limits(0.1, 0.1, 0.1))[2]


def test_budget_above_delta_is_not_dppo():
    """False: delta_b >= delta is DPPO. One outlier still empties the account."""
    assert verdict([1.0, 0.1], Limits(0.15, 0.15, 1.0)) == [False, False]


def test_late_tokens_may_exceed_dppo():
    """False: CPPO keeps a subset of DPPO. With w_min < 1 late tokens are allowed delta / w_min."""
    assert verdict([0.0] * 4 + [0.18], PAPER)[-1]  # delta is .15


def test_the_allowance_may_grow():
    """False: the allowance shrinks along the response. A quiet prefix pays in."""
    c = mask(drifting([0.15, 0, 0, 0]), FLAT).threshold[0].tolist()
    assert c[1] < c[2] < c[3]
    out = mask(drifting([0.0] * 5), PAPER)
    raw = (out.threshold / out.position_weight)[0].tolist()
    assert raw == sorted(raw)
    assert math.isclose(raw[0], 0.15)
    assert math.isclose(raw[-1], 0.15 / 0.8)


def test_the_threshold_may_be_negative():
    """False: c_t >= 0, for S_t stays within delta + delta_b W_{t-1}. A mask does not undo drift: after D_1 = 1, masked,
    c_2 is -0.83, and even D = 0 is masked."""
    out = mask(drifting([1.0, 0.0]), FLAT)
    assert math.isclose(out.threshold[0, 1].item(), -0.83)
    assert math.isclose(steps(drifting([1.0, 0.0]), FLAT)[1].threshold, -0.83)
    assert not out.token_mask.any()


def test_masking_may_end():
    """False: once masked, always masked. Quiet tokens restore the account."""
    kept = verdict([0.15, 0.15, *[0.0] * 17, 0.1], FLAT)
    assert not kept[1]
    assert kept[-1]


def test_dynamic_budget_is_not_causal():
    """False: c_t depends on the past alone. The dynamic budget reads the whole response: more drift may keep more."""
    quiet, loud = ([0.15, 0.035, *[d] * 18] for d in (0.0, 0.05))
    assert not verdict(quiet, FLAT, "dynamic")[1]
    assert verdict(loud, FLAT, "dynamic")[1]


def test_truncation_moves_the_own_schedule():
    """False: a prefix is decided alike when the response goes on. The schedule stretches over the realised length."""
    assert verdict([0.0, 0.18], PAPER)[1]
    assert not verdict([0.0, 0.18, *[0.0] * 98], PAPER)[1]


def test_masked_tokens_consume_budget():
    """False: masked (or toward) tokens cost nothing. Drift is drift."""
    assert verdict([0.2, 0.1], FLAT) == [False, False]
    assert verdict([0.1, 0.1], FLAT) == [True, False]
    toward_first = Response((0.2, 0.1), (-0.25, 0.25), (1.0, 1.0))
    assert all(keeps(toward_first, FLAT) == [True, False] for keeps in TWINS)


def test_order_matters_with_weights():
    """False: the last verdict does not see the order. With w_min < 1 early drift costs more."""
    lim = Limits(0.15, 0.02, 0.1)
    assert not verdict([0.15, 0.0, 0.5], lim)[-1]
    assert verdict([0.0, 0.15, 0.5], lim)[-1]


def test_capping_outliers_changes_the_mask():
    """False: winsorising D leaves the mask. The outlier's excess was charged."""
    assert verdict([1.0, 0.0], FLAT) != verdict([0.16, 0.0], FLAT)


def test_figure_1_is_not_equation_10():
    """False: Figure 1's rule S_t <= delta_b W_t is Eq. 10. The slack delta lets a first token of 0.1 pass."""
    assert verdict([0.1], FLAT) == [True]  # delta_b is .02


def test_soft_gate_overruns_the_budget():
    """False: the soft gate's gated sum obeys the budget. Ours, water-filling, does."""
    loop = steps(drifting([0.15] * 8), FLAT)
    soft = reference.soft_gate(loop, delta=0.15, delta_b=0.02)
    tight = reference.budget_gate(loop, delta=0.15, delta_b=0.02)
    limit = 0.15 + 0.02 * loop[-1].W_before
    assert sum(g * x.weighted_divergence for g, x in zip(soft, loop, strict=True)) > 1.5 * limit
    assert sum(g * x.weighted_divergence for g, x in zip(tight, loop, strict=True)) <= limit * (1 + 1e-12)


def test_an_outlier_blocks_for_long():
    """Outlier cost: one D_1 = 1 needs (1 - delta) / delta_b = 42.5 still tokens; at D = delta_b it blocks for ever."""
    assert verdict([1.0, *[0.0] * 43], FLAT)[1:] == [False] * 42 + [True]
    dyadic = Limits(0.125, 1 / 64, 1.0)
    assert not any(verdict([1.0, *[1 / 64] * 500], dyadic))
