"""Direction, monotonicity and budget of the CPPO mask (theory.md section 5)."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from hypothesis import assume
from hypothesis import strategies as st

from tests.properties.registry import prop
from tests.strategies import (
    Limits,
    Response,
    drifting,
    limits,
    multiples,
    responses,
)
from tests.twins import Keeps, Subject, kept, mask, of_each_twin, steps


def implies(left: list[bool], right: list[bool]) -> bool:
    """Kept on the left means kept on the right."""
    return all(b for a, b in zip(left, right, strict=True) if a)


# --- 8 to 10: direction -------------------------------------------------------------------------------------


@prop("theory 08", responses(), limits())
def toward_is_always_kept(s: Subject, response: Response, lim: Limits) -> None:
    """A token that moves toward mu, or has A = 0 or rho = 1, is kept whatever its divergence."""
    drifted = response.replace(divergence=[d + 1 for d in response.divergence])
    out, loop = mask(s, drifted, lim), steps(s, drifted, lim)
    for t, away in enumerate(response.away):
        assert away or (loop[t].keep and out.token_mask[0, t] and out.reason[0, t] == s.rules.Reason.TOWARD)


@prop(
    "theory 09",
    responses(),
    limits(),
    st.lists(st.sampled_from([2.0**-20, 0.5, 2.0, 1024.0]), min_size=17, max_size=17),
)
@of_each_twin
def size_of_the_advantage_is_free(keeps: Keeps, response: Response, lim: Limits, scales: list[float]) -> None:
    """Scaling each token's advantage by a positive factor leaves the mask unchanged."""
    scaled = response.replace(advantages=[a * x for a, x in zip(response.advantages, scales, strict=False)])
    assert keeps(response, lim) == keeps(scaled, lim)


@prop("theory 10, methods P7", responses(), limits())
@of_each_twin
def only_the_sign_matters(keeps: Keeps, response: Response, lim: Limits) -> None:
    """Only sign(A (rho - 1)) enters: turning both A and the ratio around leaves the mask as it was."""
    mirrored = response.replace(
        advantages=[-a for a in response.advantages], log_ratio=[-x for x in response.log_ratio]
    )
    assert keeps(response, lim) == keeps(mirrored, lim)


@prop("methods P7", responses(), limits())
def sign_flip_swaps_roles(s: Subject, response: Response, lim: Limits) -> None:
    """A -> -A swaps toward and away; with rho != 1 at least one sign keeps the token."""
    flipped = response.replace(advantages=[-a for a in response.advantages])
    one, two = mask(s, response, lim), mask(s, flipped, lim)
    toward = s.rules.Reason.TOWARD
    for t, (a, x) in enumerate(zip(response.advantages, response.log_ratio, strict=True)):
        both = bool(one.reason[0, t] == toward) + bool(two.reason[0, t] == toward)
        assert both == (2 if a * x == 0 else 1)
        assert one.token_mask[0, t] or two.token_mask[0, t]


# --- 11 to 18, 30: monotone, and reductions -----------------------------------------------------------------


@prop("theory 11, methods P4", responses(all_away=True), limits(), multiples(1 / 64, 1, 16))
@of_each_twin
def larger_delta_keeps_more(keeps: Keeps, response: Response, lim: Limits, more: float) -> None:
    """Monotone in delta."""
    assert implies(keeps(response, lim), keeps(response, lim.replace(delta=lim.delta + more)))


@prop("theory 12, methods P4", responses(all_away=True), limits(), multiples(1 / 256, 1, 16))
@of_each_twin
def larger_budget_keeps_more(keeps: Keeps, response: Response, lim: Limits, more: float) -> None:
    """Monotone in a fixed delta_b."""
    assert implies(keeps(response, lim), keeps(response, lim.replace(delta_b=lim.delta_b + more)))


@prop("theory 13", responses(all_away=True), limits(), st.lists(multiples(1 / 64, 0, 4), min_size=17, max_size=17))
@of_each_twin
def more_drift_keeps_less(keeps: Keeps, response: Response, lim: Limits, extra: list[float]) -> None:
    """Antitone in D, with a fixed budget."""
    worse = response.replace(divergence=[d + x for d, x in zip(response.divergence, extra, strict=False)])
    assert implies(keeps(worse, lim), keeps(response, lim))


@prop("theory 14", responses(all_away=True), limits(), multiples(1 / 8, 1, 8))
@of_each_twin
def smaller_w_min_relaxes_the_cap(keeps: Keeps, response: Response, lim: Limits, other: float) -> None:
    """Without a prefix budget, a smaller w_min only keeps more (with one it need not: see the refuted)."""
    small, large = sorted((lim.w_min, other))
    relaxed, strict = (keeps(response, lim.replace(w_min=w), budget="off") for w in (small, large))
    assert implies(strict, relaxed)


def dppo_keeps(response: Response, delta: float) -> list[bool]:
    """DPPO's own rule, spelled out."""
    return [not away or d <= delta for d, away in zip(response.divergence, response.away, strict=True)]


@prop("theory 15, methods P2", responses(), limits(w_min=1.0), st.sampled_from([1.0, 4.0, math.inf]))
def dppo_without_weights_and_budget(s: Subject, response: Response, lim: Limits, delta_b: float) -> None:
    """w = 1 and delta_b >= 1 is DPPO exactly; a huge delta on top keeps everything."""
    loose = lim.replace(delta_b=delta_b)
    assert kept(s, response, loose) == dppo_keeps(response, lim.delta)
    assert all(kept(s, response, loose.replace(delta=2.0)))
    if delta_b < math.inf:
        assert [x.keep for x in steps(s, response, loose)] == dppo_keeps(response, lim.delta)


@prop("theory 16", responses(all_away=True), limits())
def below_budget_the_cap_decides(s: Subject, response: Response, lim: Limits) -> None:
    """While D_j <= delta_b for all j < t, the token test alone decides token t."""
    out = mask(s, response, lim)
    for t in range(len(response)):
        if all(d <= lim.delta_b for d in response.divergence[:t]):
            assert out.token_mask[0, t].item() == (
                out.position_weight[0, t].item() * response.divergence[t] <= lim.delta
            )


@prop("theory 17", responses(), limits(w_min=1.0))
@of_each_twin
def without_weights_below_dppo(keeps: Keeps, response: Response, lim: Limits) -> None:
    """With w = 1 CPPO keeps a subset of what DPPO keeps."""
    assert implies(keeps(response, lim), dppo_keeps(response, lim.delta))


@prop("theory 18", responses(), limits())
@of_each_twin
def the_budget_only_masks(keeps: Keeps, response: Response, lim: Limits) -> None:
    """CPPO keeps a subset of what its position weights alone keep."""
    assert implies(keeps(response, lim), keeps(response, lim, budget="off"))


@prop("theory 21, methods P2", responses(all_away=True), limits())
@of_each_twin
def the_first_token_is_dppo(keeps: Keeps, response: Response, lim: Limits) -> None:
    """I_1 holds iff D_1 <= delta, inclusive."""
    assert keeps(response, lim)[0] == (response.divergence[0] <= lim.delta)
    tie = response.replace(divergence=[lim.delta, *response.divergence[1:]])
    assert keeps(tie, lim)[0]


@prop("theory 21", limits(), st.sampled_from([0.25, 0.5, 1.0]), multiples(1 / 64, 0, 8))
@of_each_twin
def both_tests_are_inclusive(keeps: Keeps, lim: Limits, w_min: float, first: float) -> None:
    """A second token whose Z_2 equals c_2 exactly is kept; a grain more is masked."""
    lim = lim.replace(w_min=w_min)
    c = min(lim.delta, lim.delta + lim.delta_b - first)
    assume(c >= 0)
    assert keeps(drifting([first, c / w_min]), lim)[1]
    assert not keeps(drifting([first, c / w_min + 2.0**-20]), lim)[1]


@prop("theory 22", responses(), limits(), st.sampled_from([0.25, 0.5, 2.0]))
def scaling_divergence_and_limits(s: Subject, response: Response, lim: Limits, factor: float) -> None:
    """(D, delta, delta_b) scaled together leave the mask, and scale c_t."""
    scaled = response.replace(divergence=[d * factor for d in response.divergence])
    wider = Limits(lim.delta * factor, lim.delta_b * factor, lim.w_min)
    for budget in ("fixed", "dynamic"):
        one, two = mask(s, response, lim, budget=budget), mask(s, scaled, wider, budget=budget)
        assert torch.equal(one.reason, two.reason)
        if budget == "fixed":
            assert torch.equal(one.threshold * factor, two.threshold)


@prop("theory 23", responses(), limits(), st.sampled_from([0.25, 0.5, 2.0]))
def scaling_weights_and_delta(s: Subject, response: Response, lim: Limits, factor: float) -> None:
    """(w, delta) scaled together leave the loop's mask: only delta / w is a limit on D."""
    weights = s.reference.linear_weights(len(response), lim.w_min)
    one = s.reference.cppo_steps(
        response.divergence, response.away, delta=lim.delta, delta_b=lim.delta_b, weights=weights
    )
    two = s.reference.cppo_steps(
        response.divergence,
        response.away,
        delta=lim.delta * factor,
        delta_b=lim.delta_b,
        weights=[w * factor for w in weights],
    )
    assert [x.reason for x in one] == [x.reason for x in two] == [x.reason for x in steps(s, response, lim)]
    assert kept(s, response, lim) == [x.keep for x in two]


@prop("theory 30", responses(), limits())
@of_each_twin
def no_drift_keeps_all(keeps: Keeps, response: Response, lim: Limits) -> None:
    """D = 0 everywhere keeps every token, under every budget."""
    still = response.replace(divergence=[0.0] * len(response))
    for budget in ("fixed", "dynamic", "off"):
        assert all(keeps(still, lim, budget=budget))


# --- 19, 20, 29, 31, 34 to 39: the budget -------------------------------------------------------------------


@prop("theory 19", responses(), limits())
def kept_means_both_limits_hold(s: Subject, response: Response, lim: Limits) -> None:
    """A kept away-moving token has Z_t <= delta and S_t <= delta + delta_b W_{t-1}."""
    S = W = 0.0
    for t, (d, w) in enumerate(
        zip(response.divergence, mask(s, response, lim).position_weight[0].tolist(), strict=True)
    ):
        if kept(s, response, lim)[t] and response.away[t]:
            assert w * d <= lim.delta
            assert S + w * d <= lim.delta + lim.delta_b * W
        S, W = S + w * d, W + w


@prop("theory 20", responses(), limits())
def kept_drift_stays_in_budget(s: Subject, response: Response, lim: Limits) -> None:
    """The Z of kept away-moving tokens sum to at most delta + delta_b W_{t-1}, at every t."""
    for x, y in zip(_kept_sums(s, response, lim), steps(s, response, lim), strict=True):
        assert x <= lim.delta + lim.delta_b * y.W_before


def _kept_sums(s: Subject, response: Response, lim: Limits) -> list[float]:
    verdict = mask(s, response, lim)
    inside = (verdict.reason[0] == s.rules.Reason.INSIDE).tolist()
    return list(accumulate(z * i for z, i in zip(verdict.weighted_divergence[0].tolist(), inside, strict=True)))


@prop("theory 37", responses((9, 17), all_away=True), limits())
def few_large_tokens_are_kept(s: Subject, response: Response, lim: Limits) -> None:
    """At most (delta + delta_b W_{T-1}) / z kept away-moving tokens have Z >= z, whatever z."""
    out = mask(s, response, lim)
    kept_scores = sorted(out.weighted_divergence[out.reason == s.rules.Reason.INSIDE].tolist(), reverse=True)
    budget = lim.delta + lim.delta_b * steps(s, response, lim)[-1].W_before
    assert all(count * z <= budget for count, z in enumerate(kept_scores, 1))


@prop("theory 29", limits(w_min=1.0), multiples(1 / 256, 1, 32))
@of_each_twin
def constant_drift_closed_form(keeps: Keeps, lim: Limits, D: float) -> None:
    """With w = 1 and a constant D in (delta_b, delta], floor((delta - delta_b) / (D - delta_b)) tokens are kept."""
    T = 64
    expected = T if D <= lim.delta_b else math.floor((lim.delta - lim.delta_b) / (D - lim.delta_b))
    if D > lim.delta:
        expected = 0
    assert keeps(drifting([D] * T), lim) == [t < expected for t in range(T)]


@prop("theory 31", responses(all_away=True), limits())
def figure_1_is_stricter(s: Subject, response: Response, lim: Limits) -> None:
    """Where Figure 1's S_t <= delta_b W_t and Z_t <= delta hold (delta_b <= delta), Eq. 10 keeps the token."""
    lim = lim.replace(delta_b=min(lim.delta, lim.delta_b))
    S = W = 0.0
    for step, verdict in zip(steps(s, response, lim), kept(s, response, lim), strict=True):
        S, W = S + step.weighted_divergence, W + step.position_weight
        if lim.delta_b * W >= S and step.weighted_divergence <= lim.delta:
            assert verdict


@prop("theory 32", responses((9, 17)), limits(), st.sampled_from([2.0, 5.0]))
def dynamic_budget_is_sandwiched(s: Subject, response: Response, lim: Limits, cap: float) -> None:
    """The dynamic mask lies between the fixed ones at delta_b and at cap_factor * delta_b."""
    middle = mask(s, response, lim, budget="dynamic", cap_factor=cap)
    assert implies(kept(s, response, lim), middle.token_mask[0].tolist())
    assert implies(middle.token_mask[0].tolist(), kept(s, response, lim.replace(delta_b=cap * lim.delta_b)))
    floor, value = lim.delta_b, s.reference.dynamic_budget(response.divergence, lim.delta_b, cap)
    assert floor <= value <= cap * floor
    assert middle.delta_b.item() == value


@prop("theory 32, methods 1.2", responses((2, 3, 5, 9, 17)), limits())
def the_quantile_ignores_position(s: Subject, response: Response, lim: Limits) -> None:
    """The dynamic budget is a quantile of the unweighted D, here the median: reversing the response leaves it."""
    for r in (response, response[::-1]):
        out = mask(s, r, lim, budget="dynamic", quantile=0.5, cap_factor=1e6)
        median = float(torch.tensor(response.divergence, dtype=torch.float64).quantile(0.5))
        assert out.delta_b.item() == max(lim.delta_b, median)


@prop("methods 1.2", st.integers(0, 999), st.sampled_from([0.5, 0.9, 1.0]), st.sampled_from([0.0, 1e-9, 0.25]))
def the_search_equals_the_sort(s: Subject, seed: int, q: float, grain: float) -> None:
    """The dynamic budget is each response's own quantile to the bit: of smooth values, of crowded ones and of ties."""
    D = torch.rand((4, 65), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if grain == 0.25:
        D = (D / grain).ceil() * grain
    elif grain:
        D = torch.where(D < 0.7, D, 0.7 + grain * D)
    x = torch.full_like(D, -1.0)
    out = s.rules.cppo_mask(x, x, x[:, 0], divergence=D, delta_b=0.01, cap_factor=100, quantile=q)
    assert out.delta_b.tolist() == [s.reference.dynamic_budget(row, 0.01, 100, q) for row in D.tolist()]


@prop("theory 34", responses(), limits())
def charging_only_kept_keeps_more(s: Subject, response: Response, lim: Limits) -> None:
    """A rule that charges only kept tokens would keep a superset: masked and toward tokens do consume the budget."""
    spent = W = 0.0
    generous = []
    for step, away in zip(steps(s, response, lim), response.away, strict=True):
        keep = not away or step.weighted_divergence <= min(lim.delta, lim.delta + lim.delta_b * W - spent)
        generous.append(keep)
        spent, W = spent + step.weighted_divergence * (away and keep), W + step.position_weight
    assert implies(kept(s, response, lim), generous)


@prop("theory 38", responses(all_away=True), limits(), multiples(1 / 64, 1, 32))
@of_each_twin
def capping_outliers_keeps_more(keeps: Keeps, response: Response, lim: Limits, cap: float) -> None:
    """Winsorising D at any level keeps a superset."""
    capped = response.replace(divergence=[min(d, cap) for d in response.divergence])
    assert implies(keeps(response, lim), keeps(capped, lim))


@prop("theory 39", responses(all_away=True), limits(), multiples(1 / 64, 1, 16))
@of_each_twin
def capping_above_the_allowance_is_free(keeps: Keeps, response: Response, lim: Limits, above: float) -> None:
    """Without a budget, winsorising D above delta / w_min leaves the mask unchanged."""
    cap = lim.delta / lim.w_min + above
    capped = response.replace(divergence=[min(d, cap) for d in response.divergence])
    assert keeps(response, lim, budget="off") == keeps(capped, lim, budget="off")
