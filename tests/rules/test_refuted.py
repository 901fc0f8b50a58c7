"""Plausible statements about the mask that are false, each with its counterexample (theory.md section 5)."""

import math

import pytest

from minicppo import reference
from tests.rules.strategies import Limits, Response, drifting
from tests.rules.twins import TWINS, mask, steps

PAPER = Limits(0.15, 0.02, 0.8)
FLAT = PAPER._replace(w_min=1.0)
EARLY, LOOSE, GRAIN = Limits(0.15, 0.02, 0.1), Limits(0.1, 0.1, 1.0), Limits(0.125, 1 / 64, 1.0)
Case = tuple[list[float], Limits, str]  # D of a response that moves away everywhere; + kept, - masked, ? not asked

FALSE: dict[str, list[Case]] = {
    # It shrinks the deposits too.
    "a smaller w_min only relaxes": [
        ([0.26, 0, 0.03], LOOSE, "??+"),
        ([0.26, 0, 0.03], LOOSE._replace(w_min=0.1), "??-"),
    ],
    # One outlier still empties the account.
    "delta_b >= delta is DPPO": [([1.0, 0.1], FLAT._replace(delta_b=0.15), "--")],
    # With w_min < 1 late tokens are allowed delta / w_min; delta is .15.
    "CPPO keeps a subset of DPPO": [([0.0] * 4 + [0.18], PAPER, "????+")],
    # Quiet tokens restore the account.
    "once masked, always masked": [([0.15, 0.15, *[0.0] * 17, 0.1], FLAT, "?-" + 17 * "?" + "+")],
    # The schedule stretches over the realised length.
    "a prefix is decided alike when the response goes on": [
        ([0.0, 0.18], PAPER, "?+"),
        ([0.0, 0.18, *[0.0] * 98], PAPER, "?-"),
    ],
    # Drift is drift.
    "masked tokens cost nothing": [([0.2, 0.1], FLAT, "--"), ([0.1, 0.1], FLAT, "+-")],
    # With w_min < 1 early drift costs more.
    "the last verdict does not see the order": [([0.15, 0.0, 0.5], EARLY, "??-"), ([0.0, 0.15, 0.5], EARLY, "??+")],
    # The outlier's excess was charged.
    "winsorising D leaves the mask": [([1.0, 0.0], FLAT, "--"), ([0.16, 0.0], FLAT, "-+")],
    # The slack delta lets a first token of .1 pass, where delta_b is .02.
    "Figure 1's rule S_t <= delta_b W_t is Eq. 10": [([0.1], FLAT, "+")],
    # One D_1 = 1 needs (1 - delta) / delta_b = 42.5 still tokens; at D = delta_b it blocks for ever.
    "an outlier is soon forgotten": [
        ([1.0, *[0.0] * 43], FLAT, "-" * 43 + "+"),
        ([1.0, *[1 / 64] * 500], GRAIN, 501 * "-"),
    ],
}


def verdicts(D: list[float], lim: Limits, budget: str = "fixed") -> str:
    """What both twins say."""
    fast, by_loop = (keeps(drifting(D), lim, budget=budget) for keeps in TWINS)
    assert fast == by_loop
    return "".join("+" if keep else "-" for keep in fast)


@pytest.mark.parametrize("statement", FALSE)
def test_it_is_false(statement):
    for D, lim, wanted in FALSE[statement]:
        found = verdicts(D, lim)[: len(wanted)]
        assert "".join("?" if asked == "?" else each for each, asked in zip(found, wanted, strict=True)) == wanted


def test_toward_tokens_cost_too():
    toward_first = Response((0.2, 0.1), (-0.25, 0.25), (1.0, 1.0))
    assert all(keeps(toward_first, FLAT) == [True, False] for keeps in TWINS)


def test_dynamic_budget_is_not_causal():
    """False: c_t depends on the past alone. The dynamic budget reads the whole response: more drift may keep more."""
    quiet, loud = (verdicts([0.15, 0.035, *[d] * 18], FLAT, "dynamic") for d in (0.0, 0.05))
    assert (quiet[1], loud[1]) == ("-", "+")


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


def test_soft_gate_overruns_the_budget():
    """False: the soft gate's gated sum obeys the budget. Ours, water-filling, does."""
    loop = steps(drifting([0.15] * 8), FLAT)
    soft = reference.soft_gate(loop, delta=0.15, delta_b=0.02)
    tight = reference.budget_gate(loop, delta=0.15, delta_b=0.02)
    limit = 0.15 + 0.02 * loop[-1].W_before
    assert sum(g * x.weighted_divergence for g, x in zip(soft, loop, strict=True)) > 1.5 * limit
    assert sum(g * x.weighted_divergence for g, x in zip(tight, loop, strict=True)) <= limit * (1 + 1e-12)
