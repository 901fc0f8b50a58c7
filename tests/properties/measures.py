"""What is true of the parts: gates, divergences, aggregation, advantages (methods.md sections 1.3, 5, 6 and 8)."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from tests.properties.mask import implies
from tests.properties.methods import Rows, close, method, of_each_method
from tests.properties.registry import prop
from tests.strategies import (
    Limits,
    Response,
    Token,
    distributions,
    limits,
    multiples,
    responses,
    tight,
    tokens,
    traces,
)
from tests.twins import Subject, loop_divergence, mask, steps, token_batch

# --- gates ------------------------------------------------------------------------------------------------------------


@prop("theory 24 and 25, methods P8", responses(), limits(), st.sampled_from(["reciprocal", "sigmoid"]))
def soft_gate_is_one_where_kept(s: Subject, response: Response, lim: Limits, kind: str) -> None:
    """The soft gate is 1 exactly where the mask keeps, in (0, 1) elsewhere, and x g(x) <= 1; both twins agree."""
    loop = steps(s, response, lim)
    gates = s.reference.soft_gate(loop, delta=lim.delta, delta_b=lim.delta_b, kind=kind)
    for g, step in zip(gates, loop, strict=True):
        assert (g == 1) == step.keep
        assert g <= 1
        spent = (step.S_before + step.weighted_divergence) / (lim.delta + lim.delta_b * step.W_before)
        x = max(step.weighted_divergence / lim.delta, spent)
        assert g > 0 or x > 700  # exp(-700) is about the smallest number there is
        assert step.reason == "toward" or x * g <= 1 + 1e-12
    close(gate(s, response, lim, kind), gates, 1e-12)
    assert [g == 1 for g in gate(s, response, lim, kind)] == [x.keep for x in loop]


def gate(s: Subject, response: Response, lim: Limits, kind: str) -> list[float]:
    """The rules' gate values, on the mask's own record."""
    return _gates(s, mask(s, response, lim), kind)


def _gates(s: Subject, out: Any, kind: str) -> list[float]:
    gates = s.rules.gates
    if kind == "budget":
        out = gates.charge_what_passes(out)
        assert bool((out.threshold >= 0).all())
    return gates.gate_values(out, kind)[0].tolist()


@prop("ours, methods 1.3", responses(), limits())
def water_filling_keeps_the_budget(s: Subject, response: Response, lim: Limits) -> None:
    """Ours: with the causal gate the running sum of g Z never exceeds the budget (toward tokens too are charged)."""
    loop = steps(s, response, lim)
    gates = s.reference.budget_gate(loop, delta=lim.delta, delta_b=lim.delta_b)
    mine = gate(s, response, lim, "budget")
    close(mine, gates, 1e-12)
    spent = 0.0
    for g, step in zip(mine, loop, strict=True):
        assert 0 <= g <= 1
        spent += g * step.weighted_divergence * (step.reason != "toward")
        assert spent <= (lim.delta + lim.delta_b * step.W_before) * (1 + 1e-12)
        assert step.reason == "toward" or g * step.weighted_divergence <= lim.delta * (1 + 1e-12)


@prop("ours, methods 1.3", responses(all_away=True), limits())
def water_filling_fills_the_room(s: Subject, response: Response, lim: Limits) -> None:
    """Ours: a token the gate cuts is cut to the room left, no less; without a budget the room is delta."""
    out = mask(s, response, lim, budget="off")
    gates = _gates(s, out, "budget")
    loop = steps(s, response, lim, budget="off")
    close(gates, s.reference.budget_gate(loop, delta=lim.delta, delta_b=None), 1e-12)
    for g, step in zip(gates, loop, strict=True):
        close(g * step.weighted_divergence, min(step.weighted_divergence, lim.delta), 1e-12)


# --- divergences ------------------------------------------------------------------------------------------------------


@prop("methods P9", tokens(6), st.sampled_from(["tv", "kl"]))
def finer_partitions_see_more(s: Subject, t: Token, measure: str) -> None:
    """Binary <= Top-K <= Top-(K+1) <= exact, and replace-last <= union, for TV and KL, in both twins."""
    for divergence in (_of_reference(s, t), _of_rules(s, t)):
        union = [divergence(f"topk_{measure}", k, "union") for k in (1, 2, 3, 4)]
        exact = divergence(f"exact_{measure}", 1, "union")
        chain = [divergence(f"binary_{measure}", 1, "union"), *union, exact]
        assert all(a <= b + 1e-12 for a, b in zip(chain, chain[1:], strict=False))
        for k, u in zip((2, 3, 4), union[1:], strict=True):
            assert divergence(f"topk_{measure}", k, "replace_last") <= u + 1e-12
        assert 0 <= exact
        assert measure == "kl" or exact <= 1


def _of_reference(s: Subject, t: Token) -> Any:
    return lambda kind, k, variant: s.reference.divergence(kind, t.mu, t.pi, t.sampled, k, variant)


def _of_rules(s: Subject, t: Token) -> Any:
    def divergence(kind: str, k: int, variant: str) -> float:
        needs = {"topk": "topk", "exact": "full"}.get(kind.split("_")[0], "log_probs")
        batch = token_batch(s, ((t,),), tight([1]), needs, k=k)
        return s.rules.token_divergence(batch, kind, topk_variant=variant).item()

    return divergence


KINDS = ("binary_tv", "binary_kl", "topk_tv", "topk_kl", "exact_tv", "exact_kl", "k3", "abs_log_ratio")


@prop("methods 5", traces(), st.sampled_from(KINDS), st.sampled_from(["union", "replace_last"]), examples=24)
def divergences_equal_their_loop(s: Subject, drawn: Rows, kind: str, variant: str) -> None:
    """Each divergence and estimate of the rules is the loop's; positions without a valid token hold zero."""
    rows, layout = drawn
    needs = {"topk": "topk", "exact": "full"}.get(kind.split("_")[0], "log_probs")
    D = s.rules.token_divergence(token_batch(s, rows, layout, needs), kind, topk_variant=variant)
    for row, mine in zip(rows, layout.gather(D), strict=True):
        close(mine, loop_divergence(s, kind, row, variant=variant), 1e-9)
    assert not D[~layout.mask].any()


@prop("methods P9", distributions(5), distributions(5))
def expectations_under_mu(s: Subject, mu: tuple[float, ...], pi: tuple[float, ...]) -> None:
    """Enumerated under mu: E|rho - 1| / 2 is exact TV, E[k3] is KL(mu || pi); KL >= 2 TV^2."""
    every = tuple((Token(mu, pi, y, 1.0),) for y in range(len(mu)))
    layout = tight([1] * len(mu))
    weights = torch.tensor(mu, dtype=torch.float64)
    ratio = token_batch(s, every, layout, "log_probs").ratio[:, 0]
    full = token_batch(s, every, layout, "full")
    tv, kl = (s.rules.token_divergence(full, kind)[:, 0] for kind in ("exact_tv", "exact_kl"))
    close(tv, torch.full_like(tv, (weights * (ratio - 1).abs()).sum() / 2), 1e-12)
    k3 = s.rules.token_divergence(token_batch(s, every, layout, "log_probs"), "k3")[:, 0]
    close(kl, torch.full_like(kl, (weights * k3).sum()), 1e-9)
    assert kl[0] >= 2 * tv[0] ** 2 - 1e-12
    close(s.reference.total_variation(mu, pi), tv[0], 1e-12)
    close(s.reference.kl_divergence(mu, pi), kl[0], 1e-9)
    close(s.reference.total_variation(pi, mu), tv[0], 1e-12)


@prop("methods 4", distributions(5), distributions(5), st.integers(0, 4))
def predicted_drift_is_a_derivative(s: Subject, mu: tuple[float, ...], pi: tuple[float, ...], y: int) -> None:
    """The predicted drift is d KL(mu || pi) / d step of a softmax-logit step on log pi(y), by finite differences."""
    partition = [(i,) for i in range(len(mu))]
    logits = torch.tensor(pi, dtype=torch.float64).log()
    direction = torch.nn.functional.one_hot(torch.tensor(y), len(mu)) - logits.exp()
    kls = [s.reference.kl_divergence(mu, (logits + h * direction).softmax(0).tolist()) for h in (-1e-4, 1e-4)]
    rate = s.reference.predicted_drift(mu, pi, y, partition)
    close((kls[1] - kls[0]) / 2e-4, rate, 1e-5)
    if abs(rate) > 1e-9:
        for advantage in (1.0, -1.0):
            row = ((Token(mu, pi, y, advantage),),)
            batch = token_batch(s, row, tight([1]), "full")
            assert s.rules.divergence.predicted_away(batch).item() == (advantage * rate > 0)


@prop("theory 35", traces(size=6))
def lower_scores_keep_more(s: Subject, drawn: Rows) -> None:
    """A lower bound on D keeps a superset: exact within Top-K within Binary, with a fixed budget."""
    rows, layout = drawn
    kept = []
    for name in ("cppo-exact", "cppo-topk", "cppo"):
        m = s.rules.get_method(name, budget="fixed")
        kept.append(layout.gather(m(token_batch(s, rows, layout, m.needs, k=3)).token_mask))
    for exact, topk, binary in zip(*kept, strict=True):
        assert implies(exact, topk)
        assert implies(topk, binary)


# --- aggregation and advantages ---------------------------------------------------------------------------------------

MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


@prop("methods 6", traces(), st.sampled_from(MODES), st.integers(1, 64))
def aggregation_equals_its_loop(s: Subject, drawn: Rows, mode: str, horizon: int) -> None:
    """Each aggregation of valid tokens is the loop's, whatever padding holds."""
    rows, layout = drawn
    values = [[t.advantage * t.mu[0] for t in row] for row in rows]
    mine = s.rules.aggregate(layout.spread(values), layout.mask, mode, horizon=horizon)
    close(mine, s.reference.aggregate(values, mode, horizon), 1e-12)


@prop("methods P10", traces(), st.sampled_from(MODES), examples=2)
@of_each_method
def masking_keeps_the_denominator(s: Subject, name: str, drawn: Rows, mode: str) -> None:
    """The loss is the loop's -agg(g A) over all valid tokens: masked ones still count."""
    rows, layout = drawn
    m = method(s, name)
    batch = token_batch(s, rows, layout, m.needs)
    g = m(batch).weight
    loss = s.rules.policy_loss(batch.log_probs, g, batch.advantages, layout.mask, loss_agg_mode=mode, horizon=8)
    As = [[t.advantage for t in row] for row in rows]
    close(loss, s.reference.policy_loss(layout.gather(g), As, mode, 8))
    half = s.rules.policy_loss(batch.log_probs, g * 0.5, batch.advantages, layout.mask, loss_agg_mode=mode, horizon=8)
    close(half, loss / 2)


rewards = st.lists(st.lists(multiples(1 / 4, 0, 4), min_size=4, max_size=4), min_size=1, max_size=3)


@prop("methods 6", rewards, st.booleans(), st.sampled_from([0, 1]))
def advantages_equal_their_loop(s: Subject, groups: list[list[float]], normalize: bool, ddof: int) -> None:
    """Group advantages are the loop's; groups without variance are zero, dropped and counted."""
    flat = torch.tensor([r for g in groups for r in g], dtype=torch.float64)
    out = s.rules.group_advantages(flat, 4, normalize_std=normalize, ddof=ddof)
    loop = [s.reference.group_advantages(g, normalize, ddof) for g in groups]
    for k, mine in enumerate(loop):
        close(out.advantages[4 * k : 4 * k + 4], [0.0] * 4 if mine is None else mine, 1e-9)
        assert out.kept[4 * k : 4 * k + 4].tolist() == [mine is not None] * 4
    assert out.dropped_groups == loop.count(None)


@prop("methods 6", rewards, multiples(1 / 2, -4, 4), st.sampled_from([0.5, 2.0, 8.0]))
def advantages_are_relative(s: Subject, groups: list[list[float]], shift: float, factor: float) -> None:
    """Advantages sum to zero, ignore a shift of all rewards, and scale with them unless divided by the deviation."""
    flat = torch.tensor([r for g in groups for r in g], dtype=torch.float64)
    plain = s.rules.group_advantages(flat, 4).advantages
    close(plain.reshape(-1, 4).sum(1), torch.zeros(len(groups)), 1e-12)
    close(s.rules.group_advantages(flat * factor + shift, 4).advantages, plain * factor, 1e-12)
    unit = s.rules.group_advantages(flat, 4, normalize_std=True).advantages
    close(s.rules.group_advantages(flat * factor + shift, 4, normalize_std=True).advantages, unit, 1e-4)
