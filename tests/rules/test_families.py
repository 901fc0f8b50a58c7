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
Objective = Callable[[Tensor, Tensor], Tensor]  # of rho and log pi
Losses = dict[str, tuple[Objective, dict[str, Any]]]  # of a method, and its hyper-parameters


def is_native(name: str, batch: rules.TokenBatch, objective: Objective, **params: Any) -> None:
    """g A is the gradient of a paper's objective(rho, log pi), token by token (that of the loss: test_loss.py)."""
    v, mu = batch.mask, batch.rollout_log_probs[batch.mask]
    found = rules.get_method(name, **params)(batch).weight[v] * batch.advantages[v]
    close(found, gradient(lambda x: objective((x - mu).exp(), x).sum(), batch.log_probs[v]))


@given(traces(), LOW, HIGH)
def test_ppo_clips_only_away(drawn, low, high):
    """methods 3.1. PPO masks exactly the tokens beyond the clip that move away from mu."""
    batch = token_batch(*drawn)
    out = rules.get_method("ppo", clip_low=low, clip_high=high)(batch)
    outside = (batch.ratio > 1 + high) | (batch.ratio < 1 - low)
    assert torch.equal(out.token_mask, ~(outside & batch.away) & batch.mask)
    close(out.weight, batch.ratio * out.token_mask)


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
    """methods 3.8. The gate 4 p (1 - p) is at most 1, reached only at rho = 1; a negative A falls off faster."""
    batch = token_batch(*drawn)
    ratio, negative = batch.ratio[batch.mask], batch.advantages[batch.mask] < 0
    gate, one_tau = (
        rules.get_method("sapo", **p)(batch).weight[batch.mask].double() / ratio for p in ({}, {"tau_neg": 1.0})
    )
    assert (gate <= 1 + 1e-6).all()
    assert ((gate - 1).abs() < 1e-6)[ratio == 1].all()
    assert (gate <= one_tau + 1e-6)[negative].all()
    assert (gate < one_tau)[negative & ((ratio - 1).abs() > 0.1) & (one_tau > 0)].all()  # 1 - p is 0 from rho = 38 on


@given(traces(), multiples(1 / 8, 1, 16), st.booleans())
def test_drpo_pulls_back(drawn, delta, weighted):
    """methods 3.9. weight / rho is 1 -+ |pi - mu| / delta: below 1 away from mu, above 1 toward it; SPO: |rho - 1|."""
    batch = token_batch(*drawn)
    mu = batch.rollout_log_probs.exp() if weighted else torch.ones_like(batch.ratio)
    sign = torch.sign(batch.advantages * batch.log_ratio)
    gate = 1 - sign * mu * (batch.ratio - 1).abs() / delta
    close(rules.get_method("drpo", delta=delta, mu_weighted=weighted)(batch).weight, gate * batch.ratio * batch.mask)


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


def clipped(A: Tensor, low: float, high: float) -> Callable[[Tensor], Tensor]:
    """PPO's objective."""
    return lambda r: torch.minimum(r * A, r.clamp(1 - low, 1 + high) * A)


@pytest.mark.slow
@given(traces(), LOW, HIGH, multiples(1 / 4, 1, 8), st.sampled_from([1.4999, 3.0001]))
def test_losses_of_one_token(drawn, low, high, part, limit):
    """methods 0: what each method's paper maximises."""
    batch = token_batch(*drawn)
    A, mu, old = (x[batch.mask] for x in (batch.advantages, batch.rollout_log_probs, batch.old_log_probs))
    clips, band = {"clip_low": low, "clip_high": high}, {"low": 1 / limit, "high": limit}
    w, gap = (old - mu).exp(), batch.log_probs[batch.mask].exp() - mu.exp()
    tau = torch.where(A > 0, 1.0, 1.05).double()
    some = A != 0  # the pull of a token without an advantage has no g A, and is left out
    clip = clipped(A, low, high)

    def dual(r: Tensor) -> Tensor:
        return torch.where(A < 0, torch.maximum(clip(r), limit * A), clip(r))

    def drpo(m: Any) -> Objective:
        return lambda r, _: r * A - A.abs() * m * (r - 1) ** 2 / (2 * part)

    def pulled(keep: Tensor) -> Objective:
        return lambda r, _: keep * r * A - 0.25 * r.log() ** 2 * some

    inside = (w >= 1 / limit) & (w <= limit)
    losses: Losses = {
        "ppo": (lambda r, _: clip(r), clips),
        "grpo-dual": (lambda r, _: dual(r), clips | {"clip_c": limit}),
        "tis": (lambda _, x: clip((x - old).exp()) * w.clamp(max=limit), clips | {"cap": limit}),
        "icepop": (lambda _, x: clip((x - old).exp()) * w * inside, clips | band),
        "rollout-is": (lambda r, x: (r * ((r > 1 - low) & (r < 1 + high))).detach() * A * x, clips),
        "sapo": (lambda r, _: 4 / tau * torch.sigmoid(tau * (r - 1)) * A, {}),
        "drpo": (drpo(mu.exp()), {"delta": part}),
        "spo": (drpo(1), {"delta": part}),
        "prime-rl": (pulled(~((gap * A.sign() > 0.2001) & some)), {"delta": 0.2001, "tau": 0.25}),
        "ipo": (pulled(gap.abs() <= 0.2001), {"delta": 0.2001, "tau": 0.25}),
        "dro": (lambda r, x: A * x - part / 2 * r.log() ** 2 * some, {"beta": part}),
        "topr": (lambda r, x: torch.where(A > 0, 1.0, r.detach().clamp(max=1)) * A * x, {}),
        "cispo": (lambda r, x: r.clamp(max=part).detach() * A * x, {"w_max": part}),
    }
    for name, (objective, params) in losses.items():
        is_native(name, batch, objective, **params)


@pytest.mark.slow
@given(traces(most=1), LOW, HIGH, multiples(1 / 4, 1, 8), st.sampled_from([0.1001, 0.5001]))
def test_losses_of_a_response(drawn, low, high, part, limit):
    """The same of weights that the whole response decides, or its prefix."""
    batch = token_batch(*drawn, "full")
    v, (row,) = batch.mask, drawn[0]
    A, old, ratio = batch.advantages[v], batch.old_log_probs[v], batch.ratio[v]
    s, clips = old - batch.rollout_log_probs[v], {"clip_low": low, "clip_high": high}
    k, lam = torch.where(A >= 0, 2.0, 3.0), torch.where(A >= 0, 3.0, 2.0)
    before = torch.cat([ratio.new_ones(1), ratio.cummin(0).values[:-1]])
    D = [reference.kl_divergence(t.mu, t.pi) for t in row]
    bad = A.sum() < 0 and -ratio.log().mean() > limit
    W, clip = s.sum().exp(), clipped(A, low, high)

    def gspo(r: Tensor, x: Tensor) -> Tensor:
        return clip(r.log().mean().exp().detach() * (x - x.detach()).exp())

    def corrected(weight: Any) -> Objective:
        return lambda _, x: clip((x - old).exp()) * weight

    def vespo(r: Tensor, x: Tensor) -> Tensor:
        product = ratio.prod()
        return product**k * (lam * (1 - product)).exp() * A * x

    def gmpo(r: Tensor, x: Tensor) -> Tensor:  # one advantage a response, as in the paper
        y = r.log().clamp(max=limit) if A[0] > 0 else r.log().clamp(min=-limit)
        return y.mean().exp().expand_as(x) * A[0]

    losses: Losses = {
        "minpro": (lambda r, x: (before * r).clamp(max=part).detach() * A * x, {"w_max": part}),
        "gspo": (gspo, clips),
        "trm-max-exact": (lambda r, _: (max(D) <= 0.05) * r * A, {}),
        "trm-avg-exact": (lambda r, _: (sum(D) / len(D) <= 0.001) * r * A, {}),
        "opsm": (lambda r, _: clip(r) * (not bad), clips | {"delta": limit}),
        "vespo": (vespo, {}),
        "seq-tis": (corrected(W.clamp(max=1 + limit)), clips | {"cap": 1 + limit}),
        "seq-mask": (corrected(W * (W <= 3 + limit)), clips | {"high": 3 + limit}),
        "geo-mask": (corrected(s.mean().abs() <= limit), clips | {"low": math.exp(-limit), "high": math.exp(limit)}),
    }
    for name, (objective, params) in losses.items():
        is_native(name, batch, objective, **params)
    if A[0] != 0:
        one = rules.TokenBatch(batch.log_probs, batch.rollout_log_probs, A[:1], v)
        is_native("gmpo", one, gmpo, clip_low=limit, clip_high=limit)
