"""What is true of every method (methods.md sections 3 and 8)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

from minicppo.rules import METHODS
from tests.properties.registry import prop
from tests.strategies import (
    Layout,
    Token,
    Trace,
    multiples,
    tight,
    traces,
)
from tests.twins import Subject, drift, loop_divergence, loop_weights, token_batch

Rows = tuple[tuple[Trace, ...], Layout]
NAMES = sorted(METHODS)


def method(s: Subject, name: str) -> Any:
    """The method with its thresholds moved off the rationals on which dyadic data would tie (rho = 0.8, w D = 0.15)."""
    bound = s.rules.get_method(name)
    nudged = {k: v + 1e-5 for k, v in bound.params.items() if k in ("delta", "clip_low", "clip_high")}
    return s.rules.get_method(name, **nudged)


def of_each_method(check: Callable[..., None]) -> Callable[..., None]:
    """A statement about every method of the registry: `check(subject, name, *drawn)`."""

    @functools.wraps(check)
    def every(s: Subject, *drawn: Any) -> None:
        for name in NAMES:
            check(s, name, *drawn)

    return every


def close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- every method -----------------------------------------------------------------------------------------------------


@prop("methods P3", traces(), examples=3)
@of_each_method
def every_method_equals_its_loop(s: Subject, name: str, drawn: Rows) -> None:
    """The batched weight g of each method of the registry is its loop's, in any ragged layout with holes."""
    rows, layout = drawn
    m = method(s, name)
    batch = token_batch(s, rows, layout, m.needs)
    out = m(batch)
    if m.params.get("direction") == "predicted" and any(0 < abs(drift(s, t, m.needs)) < 1e-9 for r in rows for t in r):
        return  # a tie of the predicted direction, which the two twins round differently
    for mine, row in zip(layout.gather(out.weight), rows, strict=True):
        close(mine, loop_weights(s, m, row, width=layout.width))
    assert not out.weight[~layout.mask].any()
    assert not out.token_mask[~layout.mask].any()


@prop("methods P3", traces(), examples=2)
@of_each_method
def every_method_is_free_of_layout(s: Subject, name: str, drawn: Rows) -> None:
    """Packing and permuting leave each method's weights to the bit, padding and holes to rounding."""
    rows, layout = drawn
    m = method(s, name)
    if m.params.get("length") == "padded":
        return  # the authors' branch, which depends on the batch's width: that is its point
    batch = token_batch(s, rows, layout, m.needs)
    weight = m(batch).weight
    top = batch.top
    if top is not None:
        top = type(top)(**{k: None if v is None else layout.pack(v) for k, v in vars(top).items()})
    packed = s.rules.TokenBatch.from_packed(
        layout.lengths,
        top,
        **{
            k: layout.pack(getattr(batch, k)) for k in ("log_probs", "rollout_log_probs", "advantages", "response_mask")
        },
    )
    assert torch.equal(layout.pack(m(packed).weight), layout.pack(weight))
    order = torch.arange(len(rows)).flip(0)
    assert torch.equal(m(batch.rows(order)).weight, weight[order])
    plain = tight([len(row) for row in rows])
    for a, b in zip(layout.gather(weight), plain.gather(m(token_batch(s, rows, plain, m.needs)).weight), strict=True):
        close(a, b)


@prop("methods P3", traces(max_responses=1), examples=2)
@of_each_method
def single_precision_weights(s: Subject, name: str, drawn: Rows) -> None:
    """float32 input gives float64's weights to 1e-5 on data away from the limits, and g is always float32."""
    rows, layout = drawn
    m = method(s, name)
    single, double = (m(token_batch(s, rows, layout, m.needs, dtype=d)) for d in (torch.float32, torch.float64))
    assert single.weight.dtype == double.weight.dtype == torch.float32
    if torch.equal(single.token_mask, double.token_mask):  # a flip needs a decision within 1e-7 of its limit
        close(single.weight, double.weight, 1e-5)


def on_policy(rows: Sequence[Trace]) -> tuple[Trace, ...]:
    return tuple(tuple(Token(t.mu, t.mu, t.sampled, t.advantage) for t in row) for row in rows)


@prop("methods P1", traces(), examples=3)
def on_policy_all_methods_agree(s: Subject, drawn: Rows) -> None:
    """With pi = mu every method is REINFORCE: weight 1 on every valid token, nothing masked, one gradient."""
    rows, layout = on_policy(drawn[0]), drawn[1]
    for name in NAMES:
        m = s.rules.get_method(name)
        batch = token_batch(s, rows, layout, m.needs)
        out = m(batch)
        assert torch.equal(out.token_mask, layout.mask)
        close(out.weight, layout.mask.double())
        assert s.rules.diagnostics(batch, out)["mask/frac"] == 0


def separating_rows() -> tuple[Trace, ...]:
    """Responses at every staleness, so that each limit of each method is passed by some tokens and not by others."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    rows = []
    for scale in (0.02, 0.03, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.15, 0.3, 0.6, 1.0, 2.0):
        for sign in (1.0, -1.0):
            for _ in range(3):
                logits = 2 * uniform(12, 8)
                mu, pi = logits.softmax(-1), (logits + scale * (2 * uniform(12, 8) - 1)).softmax(-1)
                drawn = mu.multinomial(1, generator=generator)[:, 0].tolist()
                rows.append(
                    tuple(
                        Token(tuple(m), tuple(p), y, sign)
                        for m, p, y in zip(mu.tolist(), pi.tolist(), drawn, strict=True)
                    )
                )
    rare, now = (0.02, *[0.14] * 7), (0.3, *[0.1] * 7)
    rows.append((Token(rare, now, 0, 1.0), Token(now, rare, 1, 1.0)))  # rho = 15: beyond every weight cap
    seen, hidden = (0.3, 0.2, 0.15), (0.15, 0.1, 0.05, 0.03, 0.02)
    rows.append((Token((*seen, *hidden), (*seen, *hidden[::-1]), 0, 1.0),))  # all drift is outside the top K
    even, tilted = (0.44, *[0.08] * 7), (0.608, *[0.056] * 7)
    rows.append((*[Token(even, even, 0, 1.0)] * 7, Token(even, tilted, 0, 1.0)))  # within delta / w_8 after quiet ones
    return tuple(rows)


@prop("methods P1 off-policy")
def off_policy_all_methods_differ(s: Subject) -> None:
    """With pi != mu no two of the registry's methods give the same gradient."""
    rows = separating_rows()
    layout = tight([len(row) for row in rows])
    batches = {needs: token_batch(s, rows, layout, needs, k=3) for needs in ("log_probs", "topk", "full")}
    found: dict[str, torch.Tensor] = {}
    for name in NAMES:
        m = s.rules.get_method(name)
        batch = batches[m.needs]
        gradient = m(batch).weight.double() * batch.advantages
        for other, theirs in found.items():
            assert (gradient - theirs).abs().max() > 1e-4, f"{name} and {other} give the same gradient"
        found[name] = gradient


@prop("methods P12", traces(), examples=3)
def some_gradient_is_left(s: Subject, drawn: Rows) -> None:
    """On a mildly stale batch (rho within 1e-4 of 1, some A != 0) no method returns the zero gradient."""
    rows = tuple(
        tuple(
            Token(t.mu, tuple(m + 1e-4 * (p - m) for m, p in zip(t.mu, t.pi, strict=True)), t.sampled, 1.0) for t in row
        )
        for row in drawn[0]
    )
    for name in NAMES:
        m = s.rules.get_method(name, **({"clip_high": 1e-2} if name == "gspo" else {}))
        batch = token_batch(s, rows, drawn[1], m.needs)
        assert (m(batch).weight.abs().sum(1) > 0).all(), name


@prop("methods 3.5", traces(), examples=2)
@of_each_method
def a_masked_token_has_a_reason(s: Subject, name: str, drawn: Rows) -> None:
    """reason is PAD exactly off the mask, TOWARD or INSIDE where a hard method keeps; TOWARD is A (rho - 1) <= 0."""
    m = method(s, name)
    batch = token_batch(s, *drawn, m.needs)
    out = m(batch)
    R = s.rules.Reason
    assert torch.equal(out.reason == R.PAD, ~batch.mask)
    if m.params.get("gate", "hard") == "hard":
        inside = (out.reason == R.TOWARD) | (out.reason == R.INSIDE)
        assert torch.equal(inside, out.token_mask)
        assert torch.equal(out.weight != 0, out.token_mask) or m.family == "drpo"
    if m.params.get("direction") != "predicted":
        assert not ((out.reason == R.TOWARD) & batch.away).any()
        assert not ((out.reason == R.INSIDE) & ~batch.away).any()


# --- methods one by one -----------------------------------------------------------------------------------------------


@prop("methods 3.1", traces(), multiples(1 / 8, 1, 7), multiples(1 / 8, 1, 16))
def ppo_clips_only_away(s: Subject, drawn: Rows, low: float, high: float) -> None:
    """PPO masks exactly the tokens beyond the clip that move away from mu."""
    batch = token_batch(s, *drawn, "log_probs")
    out = s.rules.get_method("ppo", clip_low=low + 1e-4, clip_high=high + 1e-4)(batch)
    outside = (batch.ratio > 1 + high + 1e-4) | (batch.ratio < 1 - low - 1e-4)
    assert torch.equal(out.token_mask, ~(outside & batch.away) & batch.mask)
    close(out.weight, batch.ratio * out.token_mask)


@prop("methods 3.3", traces(), multiples(1 / 4, 1, 8), multiples(1 / 4, 0, 3))
def cispo_bounds_every_weight(s: Subject, drawn: Rows, w_max: float, w_low: float) -> None:
    """CISPO's weight is the ratio held within [w_low, w_max], and no token is masked."""
    assume(w_low <= w_max)
    batch = token_batch(s, *drawn, "log_probs")
    out = s.rules.get_method("cispo", w_max=w_max, w_low=w_low)(batch)
    assert torch.equal(out.token_mask, batch.mask)
    close(out.weight[batch.mask], batch.ratio[batch.mask].clamp(w_low, w_max))


@prop("methods 3.4", traces(max_responses=1), st.integers(0, 4))
def minpro_looks_back_only(s: Subject, drawn: Rows, where: int) -> None:
    """MinPRO's weight at t does not see later tokens, is rho at t = 1, and falls when an earlier ratio falls."""
    (row,), layout = drawn
    at = where % len(row)
    t = row[at]
    worse = Token(t.mu, tuple(x if i != t.sampled else x / 4 for i, x in enumerate(t.pi)), t.sampled, t.advantage)
    m = s.rules.get_method("minpro", w_max=1e9)
    before, after = (
        layout.gather(m(token_batch(s, (r,), layout, "log_probs")).weight)[0]
        for r in (row, (*row[:at], worse, *row[at + 1 :]))
    )
    close(before[:at], after[:at], 0)
    assert all(y <= x for x, y in zip(before[at:], after[at:], strict=True))
    close(before[0], row[0].pi[row[0].sampled] / row[0].mu[row[0].sampled])


@prop("methods 3.7", traces())
def gspo_shares_one_weight(s: Subject, drawn: Rows) -> None:
    """All kept tokens of a response share GSPO's weight, the geometric mean of its ratios."""
    rows, layout = drawn
    out = s.rules.get_method("gspo", clip_low=0.999, clip_high=1e3)(token_batch(s, rows, layout, "log_probs"))
    for row, weights in zip(rows, layout.gather(out.weight), strict=True):
        mean = sum(math.log(t.pi[t.sampled] / t.mu[t.sampled]) for t in row) / len(row)
        close(weights, [math.exp(mean)] * len(row))


@prop("methods 3.6", traces(), st.sampled_from([n for n in NAMES if n.startswith("trm")]))
def trm_keeps_or_rejects_whole(s: Subject, drawn: Rows, name: str) -> None:
    """TRM gives a response rho everywhere or zero everywhere, whatever the signs of A and of rho - 1."""
    rows, layout = drawn
    m = s.rules.get_method(name)
    batch = token_batch(s, rows, layout, m.needs)
    flipped = tuple(tuple(Token(t.mu, t.pi, t.sampled, -t.advantage) for t in row) for row in rows)
    out, mirror = m(batch), m(token_batch(s, flipped, layout, m.needs))
    assert torch.equal(out.token_mask, mirror.token_mask)
    for verdicts in layout.gather(out.token_mask):
        assert len(set(verdicts)) == 1
    close(out.weight, batch.ratio * out.token_mask)


@prop("methods 3.6", traces())
def trm_both_is_the_conjunction(s: Subject, drawn: Rows) -> None:
    """The AND of the two TRM limits accepts exactly what each accepts."""
    batch = token_batch(s, *drawn, "topk")
    kept = {
        name: s.rules.get_method(name, **p)(batch).token_mask
        for name, p in (
            ("trm-both", {}),
            ("trm-max", {"delta_max": 0.1}),
            ("trm-avg", {"delta_avg": 0.002}),
        )
    }
    assert torch.equal(kept["trm-both"], kept["trm-max"] & kept["trm-avg"])


@prop("methods 3.8", traces())
def sapo_peaks_on_policy(s: Subject, drawn: Rows) -> None:
    """SAPO's gate 4 p (1 - p) is at most 1, reached only at rho = 1; a negative advantage falls off faster."""
    batch = token_batch(s, *drawn, "log_probs")
    ratio = batch.ratio[batch.mask]
    gate = s.rules.get_method("sapo")(batch).weight[batch.mask].double() / ratio
    assert (gate <= 1 + 1e-6).all()
    assert ((gate - 1).abs() < 1e-6)[ratio == 1].all()
    one_tau = s.rules.get_method("sapo", tau_neg=1.0)(batch).weight[batch.mask].double() / ratio
    negative = batch.advantages[batch.mask] < 0
    assert (gate <= one_tau + 1e-6)[negative].all()
    far = negative & ((ratio - 1).abs() > 0.1)
    assert (gate < one_tau)[far].all()


@prop("methods 3.9", traces(), multiples(1 / 8, 1, 16))
def drpo_pulls_back(s: Subject, drawn: Rows, delta: float) -> None:
    """DRPO's weight / rho is 1 -+ |pi - mu| / delta: below 1 away from mu, above 1 toward it, negative past delta."""
    batch = token_batch(s, *drawn, "log_probs")
    D = (batch.log_probs.exp() - batch.rollout_log_probs.exp()).abs()
    sign = torch.where(batch.away, 1.0, torch.where(batch.advantages * batch.log_ratio < 0, -1.0, 0.0))
    close(s.rules.get_method("drpo", delta=delta)(batch).weight, (1 - sign * D / delta) * batch.ratio * batch.mask)


@prop("methods 3.5", traces(), multiples(1 / 4, 1, 12))
def the_ratio_cap_bounds_the_weight(s: Subject, drawn: Rows, cap: float) -> None:
    """With a ratio cap C, g = M min(rho, C), and the capped share is logged."""
    batch = token_batch(s, *drawn, "log_probs")
    for name in ("dppo", "cppo"):
        out = s.rules.get_method(name, ratio_cap=cap)(batch)
        free = s.rules.get_method(name)(batch)
        close(out.weight, free.weight.clamp(max=cap))
        above = (batch.ratio[batch.mask] > cap).double().mean()
        close(s.rules.diagnostics(batch, out)["ratio/above_cap"], above)
        assert "ratio/above_cap" not in free.stats


@prop("methods 9", traces())
def gates_are_logged_apart_from_masks(s: Subject, drawn: Rows) -> None:
    """A gate masks nothing: its shares of masked tokens are 0, gate/frac is what it scales, and c_t is its own."""
    batch = token_batch(s, *drawn, "log_probs")
    for name in ("cppo-soft", "cppo-soft-sigmoid", "cppo-budget-gate"):
        out = s.rules.get_method(name, delta=0.05, delta_b=0.01)(batch)
        row = s.rules.diagnostics(batch, out)
        assert row["mask/frac"] == row["mask/token_only"] == row["mask/prefix_only"] == row["mask/both"] == 0
        scaled = (out.weight < batch.ratio.float() * (1 - 1e-6))[batch.mask]
        close(row["gate/frac"], scaled.double().mean(), 1e-6)
        assert name != "cppo-budget-gate" or row["budget/negative"] == 0


@prop("methods P3 and 9", traces())
def diagnostics_do_not_see_padding(s: Subject, drawn: Rows) -> None:
    """Every logged figure is the same with padding on the left, on the right, or as the rows of two batches joined."""
    rows, layout = drawn
    batch = token_batch(s, rows, layout, "log_probs")
    B = len(batch.mask)
    wide = {}
    for name in ("log_probs", "rollout_log_probs", "advantages", "response_mask"):
        value = getattr(batch, name)
        wide[name] = torch.cat([value.new_zeros(B, 2), value, value.new_zeros(B, 1)], 1)
    for name in ("cppo", "dppo", "grpo", "gspo", "minpro"):
        method = s.rules.get_method(name)
        padded = s.rules.TokenBatch(**wide)
        here, there = (s.rules.diagnostics(b, method(b)) for b in (batch, padded))
        assert here.keys() == there.keys()
        for key, value in here.items():
            close(there[key], value, 1e-6)


@prop("methods 3.5", traces(), multiples(1 / 64, 1, 16))
def dppo_masks_only_far_and_away(s: Subject, drawn: Rows, delta: float) -> None:
    """DPPO masks exactly the tokens with D > delta that move away from mu."""
    rows, layout = drawn
    for name, needs, kind in (("dppo", "log_probs", "binary_tv"), ("dppo-exact-kl", "full", "exact_kl")):
        out = s.rules.get_method(name, delta=delta + 1e-5)(token_batch(s, rows, layout, needs))
        for row, verdicts in zip(rows, layout.gather(out.token_mask), strict=True):
            D = loop_divergence(s, kind, row)
            away = [t.advantage * (t.pi[t.sampled] - t.mu[t.sampled]) > 0 for t in row]
            assert verdicts == [not (a and d > delta + 1e-5) for a, d in zip(away, D, strict=True)]


@prop("methods P2", traces())
def dppo_is_cppo_unweighted_unbudgeted(s: Subject, drawn: Rows) -> None:
    """For each divergence, DPPO is CPPO with w = 1 and no budget; position weights alone only add tokens."""
    for kind, needs in (("binary_tv", "log_probs"), ("topk_tv", "topk"), ("exact_kl", "full")):
        batch = token_batch(s, *drawn, needs)
        common = {"delta": 0.15001, "divergence": kind}
        dppo = s.rules.get_method("dppo", **common)(batch)
        cppo = s.rules.get_method("cppo", budget="off", schedule="constant", **common)(batch)
        assert torch.equal(dppo.weight, cppo.weight)
        weighted = s.rules.get_method("cppo-no-budget", **common)(batch)
        assert not (dppo.token_mask & ~weighted.token_mask).any()


EIGHTHS = multiples(1 / 8, 1, 8)


@prop("ours, theory 2", traces(), EIGHTHS, EIGHTHS, st.sampled_from(["dynamic", "fixed", "off"]))
def decoupled_weights_act_on_their_own_test(
    s: Subject, drawn: Rows, w_min: float, budget_w_min: float, budget: str
) -> None:
    """With one weight the decoupled rule is CPPO; with two it is its loop, and c_t is the limit on w_t D_t."""
    rows, layout = drawn
    batch = token_batch(s, rows, layout, "log_probs")
    common = {"delta": 0.10001, "delta_b": 0.01001, "budget": budget}
    m = s.rules.get_method("cppo-decoupled", w_min=w_min, budget_w_min=budget_w_min, **common)
    out = m(batch)
    for mine, row in zip(layout.gather(out.weight), rows, strict=True):
        close(mine, loop_weights(s, m, row, width=layout.width))
    beyond = out.position_weight * out.divergence > out.threshold
    assert torch.equal(out.token_mask, batch.mask & ~(batch.away & beyond))
    same = s.rules.get_method("cppo-decoupled", w_min=w_min, budget_w_min=w_min, **common)(batch)
    cppo = s.rules.get_method("cppo", w_min=w_min, **common)(batch)
    assert torch.equal(same.weight, cppo.weight)
    assert torch.equal(same.reason, cppo.reason)
    close(same.threshold, cppo.threshold)
