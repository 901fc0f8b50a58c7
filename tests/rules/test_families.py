"""What is true of the methods one by one, and that each has its paper's own loss (methods.md sections 0 and 3)."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minicppo import reference, rules
from tests.rules.strategies import Token, multiples, traces
from tests.rules.twins import close, gradient, loop_weights, token_batch

LOW, HIGH = (multiples(1 / 8, 1, most).map(lambda x: x + 1e-4) for most in (7, 16))  # clips that no dyadic ratio meets
EIGHTHS = multiples(1 / 8, 1, 8)


def is_native(name: str, batch: rules.TokenBatch, objective: Callable[[Tensor, Tensor], Tensor], **params: Any) -> None:
    """The unified loss has the gradient of -mean over valid tokens of a paper's objective(rho, log pi)."""
    out, v = rules.get_method(name, **params)(batch), batch.mask
    arguments = batch.log_probs, out.weight, batch.advantages, v
    found = gradient(rules.policy_loss, *arguments, loss_agg_mode="token-mean")
    mu = batch.rollout_log_probs[v]
    close(found[v], gradient(lambda x: -objective((x - mu).exp(), x).mean(), batch.log_probs[v]))


@given(traces(), LOW, HIGH)
def test_ppo_clips_only_away(drawn, low, high):
    """methods 3.1. PPO masks exactly the tokens beyond the clip that move away from mu.
    methods 0: its loss is -min(rho A, clip(rho) A)."""
    batch, clips = token_batch(*drawn), {"clip_low": low, "clip_high": high}
    A, out = batch.advantages[batch.mask], rules.get_method("ppo", **clips)(batch)
    outside = (batch.ratio > 1 + high) | (batch.ratio < 1 - low)
    assert torch.equal(out.token_mask, ~(outside & batch.away) & batch.mask)
    close(out.weight, batch.ratio * out.token_mask)
    is_native("ppo", batch, lambda r, _: torch.minimum(r * A, r.clamp(1 - low, 1 + high) * A), **clips)


@given(traces(most=1), st.integers(0, 7))
def test_minpro_looks_back_only(drawn, where):
    """methods 3.4. The weight at t does not see later tokens, is rho at t = 1, falls when an earlier ratio falls."""
    (row,), layout = drawn
    at = where % len(row)
    t, method = row[at], rules.get_method("minpro", w_max=1e9)
    worse = Token(t.mu, tuple(x / 4 if i == t.sampled else x for i, x in enumerate(t.pi)), t.sampled, t.advantage)
    before, after = (
        layout.gather(method(token_batch((r,), layout)).weight)[0] for r in (row, (*row[:at], worse, *row[at + 1 :]))
    )
    assert before[:at] == after[:at]
    assert all(y <= x for x, y in zip(before[at:], after[at:], strict=True))
    close(before[0], row[0].pi[row[0].sampled] / row[0].mu[row[0].sampled])


@given(traces(), st.sampled_from([n for n in rules.METHODS if n.startswith("trm")]))
def test_trm_keeps_or_rejects_whole(drawn, name):
    """methods 3.6. TRM gives a response rho everywhere or zero everywhere, whatever the signs of A and of rho - 1."""
    rows, layout = drawn
    method = rules.get_method(name)
    batch = token_batch(rows, layout, method.needs)
    out = method(batch)
    flipped = method(replace(batch, advantages=-batch.advantages))
    assert torch.equal(flipped.token_mask, out.token_mask)
    for verdicts in layout.gather(out.token_mask):
        assert len(set(verdicts)) == 1
    close(out.weight, batch.ratio * out.token_mask)


@given(traces())
def test_sapo_peaks_on_policy(drawn):
    """methods 3.8. The gate 4 p (1 - p) is at most 1, reached only at rho = 1; a negative A falls off faster.
    methods 0: its loss is -f(rho) A, f = (4 / tau) sigmoid(tau (rho - 1)), tau by the sign of A."""
    batch = token_batch(*drawn)
    A = batch.advantages[batch.mask]
    tau = torch.where(A > 0, 1.0, 1.05).double()
    is_native("sapo", batch, lambda r, _: 4 / tau * torch.sigmoid(tau * (r - 1)) * A)
    ratio, negative = batch.ratio[batch.mask], A < 0
    gate, one_tau = (
        rules.get_method("sapo", **p)(batch).weight[batch.mask].double() / ratio for p in ({}, {"tau_neg": 1.0})
    )
    assert (gate <= 1 + 1e-6).all()
    assert ((gate - 1).abs() < 1e-6)[ratio == 1].all()
    assert (gate <= one_tau + 1e-6)[negative].all()
    assert (gate < one_tau)[negative & ((ratio - 1).abs() > 0.1) & (one_tau > 0)].all()  # 1 - p is 0 from rho = 38 on


@given(traces(), multiples(1 / 8, 1, 16), st.booleans())
def test_drpo_pulls_back(drawn, delta, weighted):
    """methods 3.9. weight / rho is 1 -+ |pi - mu| / delta: below 1 away from mu, above 1 toward it; SPO drops the mu.
    methods 0: its loss is -(rho A - |A| mu (rho - 1)^2 / (2 delta))."""
    batch, params = token_batch(*drawn), {"delta": delta, "mu_weighted": weighted}
    mu = batch.rollout_log_probs.exp() if weighted else torch.ones_like(batch.ratio)
    sign = torch.sign(batch.advantages * batch.log_ratio)
    gate = 1 - sign * mu * (batch.ratio - 1).abs() / delta
    close(rules.get_method("drpo", **params)(batch).weight, gate * batch.ratio * batch.mask)
    A, m = batch.advantages[batch.mask], mu[batch.mask]
    is_native("drpo", batch, lambda r, _: r * A - A.abs() * m * (r - 1) ** 2 / (2 * delta), **params)


@given(traces(), multiples(1 / 4, 1, 12))
def test_the_ratio_cap_bounds_the_weight(drawn, cap):
    """methods 3.5. With a ratio cap C, g = M min(rho, C), and the capped share is logged."""
    batch = token_batch(*drawn)
    for name in ("dppo", "cppo"):
        out, free = rules.get_method(name, ratio_cap=cap)(batch), rules.get_method(name)(batch)
        close(out.weight, free.weight.clamp(max=cap))
        above = (batch.ratio[batch.mask] > cap).double().mean()
        close(rules.diagnostics(batch, out)["ratio/above_cap"], above)
        assert "ratio/above_cap" not in free.stats


@given(traces(), st.sampled_from([("binary_tv", "log_probs"), ("topk_tv", "topk"), ("exact_kl", "full")]))
def test_dppo_is_cppo_unweighted_unbudgeted(drawn, kind):
    """methods P2. For each divergence, DPPO is CPPO with w = 1 and no budget; position weights alone only add."""
    batch, common = token_batch(*drawn, kind[1]), {"delta": 0.15001, "divergence": kind[0]}
    dppo = rules.get_method("dppo", **common)(batch)
    cppo = rules.get_method("cppo", budget="off", schedule="constant", **common)(batch)
    assert torch.equal(dppo.weight, cppo.weight)
    weighted = rules.get_method("cppo-no-budget", **common)(batch)
    assert not (dppo.token_mask & ~weighted.token_mask).any()


@given(traces(), EIGHTHS, EIGHTHS, st.sampled_from(["dynamic", "fixed", "off"]))
def test_decoupled_weights_act_on_their_own_test(drawn, w_min, budget_w_min, budget):
    """ours, theory 2. With one weight the decoupled rule is CPPO; with two its loop, and c_t limits w_t D_t."""
    rows, layout = drawn
    batch, common = token_batch(rows, layout), {"w_min": w_min, "delta": 0.10001, "delta_b": 0.01001, "budget": budget}
    method = rules.get_method("cppo-decoupled", budget_w_min=budget_w_min, **common)
    out = method(batch)
    for mine, row in zip(layout.gather(out.weight), rows, strict=True):
        close(mine, loop_weights(method, row, width=layout.width))
    beyond = out.position_weight * out.divergence > out.threshold
    assert torch.equal(out.token_mask, batch.mask & ~(batch.away & beyond))
    same = rules.get_method("cppo-decoupled", budget_w_min=w_min, **common)(batch)
    cppo = rules.get_method("cppo", **common)(batch)
    assert torch.equal(same.weight, cppo.weight)
    assert torch.equal(same.reason, cppo.reason)
    close(same.threshold, cppo.threshold)


# --- each paper's own loss: the one gradient is that of its objective -------------------------------------------------


@given(traces(), st.sampled_from(["cppo", "cppo-fixed", "dppo", "cppo-no-budget"]))
def test_cppo_native(drawn, name):
    """methods 0: UniRL's A rho keep, and verl's A sg(min(rho, C)) log pi keep with its cap."""
    batch, delta = token_batch(*drawn), 0.15001
    A, keep = batch.advantages[batch.mask], rules.get_method(name, delta=delta)(batch).token_mask[batch.mask]
    is_native(name, batch, lambda r, _: A * r * keep, delta=delta)
    is_native(name, batch, lambda r, x: A * r.clamp(max=2.5).detach() * x * keep, delta=delta, ratio_cap=2.5)


@given(traces(most=1), multiples(1 / 4, 1, 8))
def test_clipped_weight_native(drawn, w_max):
    """methods 0 CISPO and MinPRO: sg(w) A log pi; the prefix minimum is spelled out."""
    batch = token_batch(*drawn)
    A, ratio = batch.advantages[batch.mask], batch.ratio[batch.mask]
    before = torch.cat([ratio.new_ones(1), ratio.cummin(0).values[:-1]])
    is_native("cispo", batch, lambda r, x: r.clamp(max=w_max).detach() * A * x, w_max=w_max)
    is_native("minpro", batch, lambda r, x: (before * r).clamp(max=w_max).detach() * A * x, w_max=w_max)


@given(traces(most=1), LOW, HIGH)
def test_gspo_native(drawn, low, high):
    """methods 0 GSPO's token form: s_t = sg(s) pi / sg(pi) in min(s A, clip(s) A)."""
    batch = token_batch(*drawn)
    A = batch.advantages[batch.mask]

    def objective(ratio, x):
        each = ratio.log().mean().exp().detach() * (x - x.detach()).exp()
        return torch.minimum(each * A, each.clamp(1 - low, 1 + high) * A)

    is_native("gspo", batch, objective, clip_low=low, clip_high=high)


@given(traces(), st.sampled_from(["trm-max-exact", "trm-avg-exact"]))
def test_trm_native(drawn, name):
    """methods 0 TRM: M(y) rho A, M a constant of the whole response."""
    rows, layout = drawn
    batch, accepted = token_batch(rows, layout, "full"), []
    for row in rows:
        D = [reference.kl_divergence(t.mu, t.pi) for t in row]
        accepted += [float(max(D) <= 0.05 if name == "trm-max-exact" else sum(D) / len(D) <= 0.001)] * len(row)
    M, A = torch.tensor(accepted, dtype=torch.float64), batch.advantages[batch.mask]
    is_native(name, batch, lambda r, _: M * r * A)


def clipped(r, A, low=0.2001, high=0.2801, c=math.inf):
    """PPO's objective, with a dual clip."""
    J = torch.minimum(r * A, r.clamp(1 - low, 1 + high) * A)
    return torch.where(A < 0, torch.maximum(J, c * A), J) if c < math.inf else J


CLIPS = {"clip_low": 0.2001, "clip_high": 0.2801}


@pytest.mark.slow
@given(traces(most=1), st.sampled_from([1.4999, 3.0001]))
def test_losses_of_one_token(drawn, limit):
    batch = token_batch(*drawn)
    v = batch.mask
    A, mu, old = batch.advantages[v], batch.rollout_log_probs[v], batch.old_log_probs[v]
    w = (old - mu).exp()
    is_native("grpo-dual", batch, lambda r, _: clipped(r, A, c=limit), **CLIPS, clip_c=limit)
    inside = (w >= 1 / limit) & (w <= limit)
    is_native("tis", batch, lambda _, x: clipped((x - old).exp(), A) * w.clamp(max=limit), **CLIPS, cap=limit)
    band = {"low": 1 / limit, "high": limit}
    is_native("icepop", batch, lambda _, x: clipped((x - old).exp(), A) * w * inside, **CLIPS, **band)
    some = A != 0  # the pull of a token without an advantage has no g A, and is left out
    pi = batch.log_probs[v].exp()
    for name, keep in (
        ("prime-rl", ~(((pi - mu.exp()) * A.sign() > 0.2001) & some)),
        ("ipo", (pi - mu.exp()).abs() <= 0.2001),
    ):
        objective = lambda r, _, keep=keep: keep * r * A - 0.25 * r.log() ** 2 * some  # noqa: E731
        is_native(name, batch, objective, delta=0.2001, tau=0.25)
    is_native("dro", batch, lambda r, x: A * x - limit / 2 * r.log() ** 2 * some, beta=limit)
    is_native("topr", batch, lambda r, x: torch.where(A > 0, 1.0, r.detach().clamp(max=1)) * A * x)
    is_native("rollout-is", batch, lambda r, x: (r.detach() * ((r > 0.7999) & (r < 1.2801))) * A * x, **CLIPS)


@pytest.mark.slow
@given(traces(most=1), st.sampled_from([0.1001, 0.5001]))
def test_losses_of_a_response(drawn, limit):
    batch = token_batch(*drawn)
    v = batch.mask
    A, old = batch.advantages[v], batch.old_log_probs[v]
    s = old - batch.rollout_log_probs[v]

    def gmpo(r, x):  # one advantage a response, as in the paper
        one = A[:1].expand_as(A)
        y = torch.where(one > 0, r.log().clamp(max=limit), r.log().clamp(min=-limit))
        return y.mean().exp().expand_as(x) * one

    one = rules.TokenBatch(batch.log_probs, batch.rollout_log_probs, A[:1], v)
    if A[0] != 0:
        is_native("gmpo", one, gmpo, clip_low=limit, clip_high=limit)
    bad = bool(A.sum() < 0) and bool((batch.rollout_log_probs - batch.log_probs)[v].mean() > limit)
    is_native("opsm", batch, lambda r, _: clipped(r, A) * (not bad), **CLIPS, delta=limit)

    def vespo(r, x):
        k, lam = torch.where(A >= 0, 2.0, 3.0), torch.where(A >= 0, 3.0, 2.0)
        W = r.log().sum().exp().detach()
        return W**k * (lam * (1 - W)).exp() * A * x

    is_native("vespo", batch, vespo)
    W = s.sum().exp()
    is_native(
        "seq-tis", batch, lambda _, x: clipped((x - old).exp(), A) * W.clamp(max=1 + limit), **CLIPS, cap=1 + limit
    )
    kept = W <= 3 + limit
    is_native("seq-mask", batch, lambda _, x: clipped((x - old).exp(), A) * W * kept, **CLIPS, high=3 + limit)
    near_one = (s.mean().abs() <= limit).double()
    band = {"low": math.exp(-limit), "high": math.exp(limit)}
    is_native("geo-mask", batch, lambda _, x: clipped((x - old).exp(), A) * near_one, **CLIPS, **band)
