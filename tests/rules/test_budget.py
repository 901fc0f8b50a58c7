"""What the prefix may spend: the fixed and the dynamic budget (theory.md section 5)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import reference, rules
from tests.rules.strategies import DRIFTS, drifting, limits, multiples, responses
from tests.rules.twins import TWINS, implies, kept, mask, steps


@given(responses(), limits())
def test_what_is_kept_stays_in_budget(response, lim):
    """Of kept away-moving tokens Z_t <= delta and S_t <= delta + delta_b W_{t-1} (theory 19). Their Z sum to at most
    delta + delta_b W_{t-1} (theory 20). So at most that / z of them have Z >= z, whatever z (theory 37)."""
    inside = (mask(response, lim).reason[0] == rules.Reason.INSIDE).tolist()
    kept_Z, budget = [], 0.0
    for step, keep in zip(steps(response, lim), inside, strict=True):
        budget = lim.delta + lim.delta_b * step.W_before
        if keep:
            assert step.weighted_divergence <= lim.delta
            assert step.S_before + step.weighted_divergence <= budget
            kept_Z.append(step.weighted_divergence)
        assert sum(kept_Z) <= budget
    assert all(count * z <= budget for count, z in enumerate(sorted(kept_Z, reverse=True), 1))


@given(limits(w_min=1.0), multiples(1 / 256, 1, 32))
def test_constant_drift_closed_form(lim, D):
    """theory 29. With w = 1 and constant D in (delta_b, delta], floor((delta - delta_b) / (D - delta_b)) are kept."""
    T = 64
    expected = T if D <= lim.delta_b else math.floor((lim.delta - lim.delta_b) / (D - lim.delta_b))
    if D > lim.delta:
        expected = 0
    for keeps in TWINS:
        assert keeps(drifting([D] * T), lim) == [t < expected for t in range(T)]


@given(responses(all_away=True), limits())
def test_figure_1_is_stricter(response, lim):
    """theory 31. Where Figure 1's S_t <= delta_b W_t and Z_t <= delta hold (delta_b <= delta), Eq. 10 keeps."""
    lim = lim._replace(delta_b=min(lim.delta, lim.delta_b))
    S = W = 0.0
    for step, verdict in zip(steps(response, lim), kept(response, lim), strict=True):
        S, W = S + step.weighted_divergence, W + step.position_weight
        if lim.delta_b * W >= S and step.weighted_divergence <= lim.delta:
            assert verdict


@given(responses(), limits())
def test_charging_only_kept_keeps_more(response, lim):
    """theory 34. A rule that charges only kept tokens would keep a superset: masked and toward tokens do consume."""
    spent = W = 0.0
    generous = []
    for step, away in zip(steps(response, lim), response.away, strict=True):
        Z = step.weighted_divergence
        keep = not away or min(lim.delta, lim.delta + lim.delta_b * W - spent) >= Z
        generous.append(keep)
        spent, W = spent + Z * (away and keep), W + step.position_weight
    assert implies(kept(response, lim), generous)


# --- the slack, and what the prefix is to the next token --------------------------------------------------------------


@given(responses(), limits())
def test_slack_is_a_queue(response, lim):
    """theory 26. slack_{t+1} - slack_t = w_t (delta_b - D_t), from slack_1 = delta; every valid token enters."""
    out = mask(response, lim)
    slack, w = out.slack[0].tolist(), out.position_weight[0].tolist()
    assert slack[0] == lim.delta
    for t in range(len(response) - 1):
        assert slack[t + 1] - slack[t] == w[t] * (lim.delta_b - response.divergence[t])


@given(responses(), limits(), st.integers(0, 16), st.sampled_from(DRIFTS))
def test_causal_with_fixed_budget(response, lim, where, value):
    """theory 03, methods P5. With delta_b and T given, c_t depends on tokens before t alone, the verdict on up to t."""
    at, D = where % len(response), list(response.divergence)
    D[at] = value
    before, after = (mask(r, lim) for r in (response, response.replace(divergence=D)))
    assert torch.equal(before.threshold[:, : at + 1], after.threshold[:, : at + 1])
    assert torch.equal(before.reason[:, :at], after.reason[:, :at])


@given(responses((9, 17), all_away=True), limits(), st.integers(0, 8))
def test_quiet_tail_gives_room(response, lim, start):
    """theory 27. From where D_t <= delta_b on, c_t never falls again, nor does c_t / w_t once it is not negative."""
    D = [d if t < start else min(d, lim.delta_b) for t, d in enumerate(response.divergence)]
    out = mask(response.replace(divergence=D), lim)
    c, w = out.threshold[0, start:].tolist(), out.position_weight[0, start:].tolist()
    assert c == sorted(c)
    raw = [x / y for x, y in zip(c, w, strict=True) if x >= 0]
    assert raw == sorted(raw)


@given(responses((5, 9, 17)), limits(w_min=1.0), st.integers(1, 4))
def test_prefix_enters_by_its_sums(response, lim, cut):
    """theory 28. A response continued from (S, W) alone decides as the whole: chunks may be processed apart."""
    whole, head, tail = (mask(r, lim) for r in (response, response[:cut], response[cut:]))
    carried = lim.delta_b * head.position_weight.sum() - head.weighted_divergence.sum()
    assert torch.equal(whole.slack[:, cut:], tail.slack + carried)


# --- the dynamic budget -----------------------------------------------------------------------------------------------


@given(responses((9, 17)), limits(), st.sampled_from([2.0, 5.0]))
def test_dynamic_budget_is_sandwiched(response, lim, cap):
    """theory 32. The dynamic mask lies between the fixed ones at delta_b and at cap_factor * delta_b."""
    middle = mask(response, lim, budget="dynamic", cap_factor=cap)
    assert implies(kept(response, lim), middle.token_mask[0].tolist())
    assert implies(middle.token_mask[0].tolist(), kept(response, lim._replace(delta_b=cap * lim.delta_b)))
    floor, value = lim.delta_b, reference.dynamic_budget(response.divergence, lim.delta_b, cap)
    assert floor <= value <= cap * floor
    assert middle.delta_b.item() == value


@given(responses((2, 3, 5, 9, 17)), limits())
def test_the_quantile_ignores_position(response, lim):
    """theory 32, methods 1.2. The budget is a quantile of the unweighted D, here the median: reversing leaves it."""
    median = float(torch.tensor(response.divergence, dtype=torch.float64).quantile(0.5))
    for r in (response, response[::-1]):
        out = mask(r, lim, budget="dynamic", quantile=0.5, cap_factor=1e6)
        assert out.delta_b.item() == max(lim.delta_b, median)


@given(st.integers(0, 999), st.sampled_from([0.5, 0.9, 1.0]), st.sampled_from([0.0, 1e-9, 0.25]))
def test_the_search_equals_the_sort(seed, q, grain):
    """methods 1.2. The dynamic budget is each response's own quantile to the bit: smooth, crowded and tied values."""
    D = torch.rand((4, 65), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if grain == 0.25:
        D = (D / grain).ceil() * grain
    elif grain:
        D = torch.where(D < 0.7, D, 0.7 + grain * D)
    x = torch.full_like(D, -1.0)
    out = rules.cppo_mask(x, x, x[:, 0], divergence=D, delta_b=0.01, cap_factor=100, quantile=q)
    assert out.delta_b.tolist() == [reference.dynamic_budget(row, 0.01, 100, q) for row in D.tolist()]


def test_an_empty_response_has_the_floor():
    x, valid = torch.full((2, 3), -1.0), torch.tensor([[True] * 3, [False] * 3])
    out = rules.cppo_mask(x + 0.5, x, torch.ones(2), valid, divergence=torch.full((2, 3), 0.03))
    assert out.delta_b.tolist() == pytest.approx([0.03, 0.02])
    assert out.reason[1].tolist() == [0, 0, 0]
