"""Divergences and the predicted direction, beside their loops (methods.md sections 4 and 5)."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicppo import reference, rules
from minicppo.rules.divergence import DIVERGENCES, ESTIMATES, needs, predicted_away
from tests.rules.strategies import BYTES, Token, Trace, simplex, tight, trace_of, traces
from tests.rules.twins import close, implies, loop_divergence, near, token_batch

PAIRS = [st.sampled_from(simplex(5))] * 2


@given(BYTES.map(lambda raw: trace_of(raw, 6, (1,))), st.sampled_from(["tv", "kl"]))
def test_finer_partitions_see_more(row, measure):
    """methods P9. Binary <= Top-K <= Top-(K+1) <= exact, and replace-last <= union, for TV and KL, in both twins."""
    for divergence in (by_loop(row), by_tensors(row)):
        union = [divergence(f"topk_{measure}", k, "union") for k in (1, 2, 3, 4)]
        exact = divergence(f"exact_{measure}", 1, "union")
        chain = [divergence(f"binary_{measure}", 1, "union"), *union, exact]
        assert all(a <= b + 1e-12 for a, b in zip(chain, chain[1:], strict=False))
        for k, u in zip((2, 3, 4), union[1:], strict=True):
            assert divergence(f"topk_{measure}", k, "replace_last") <= u + 1e-12
        assert 0 <= exact
        assert measure == "kl" or exact <= 1


def by_loop(row: Trace) -> Callable[[str, int, str], float]:
    return lambda kind, k, variant: loop_divergence(kind, row, k, variant)[0]


def by_tensors(row: Trace) -> Callable[[str, int, str], float]:
    batches = {k: token_batch((row,), tight(1), "topk", k=k) for k in (1, 2, 3, 4)}
    full = token_batch((row,), tight(1), "full")
    return lambda kind, k, variant: rules.token_divergence(
        full if needs(kind) == "full" else batches[k], kind, topk_variant=variant
    ).item()


@given(traces(), st.sampled_from(DIVERGENCES + ESTIMATES), st.sampled_from(["union", "replace_last"]))
def test_divergences_equal_their_loop(drawn, kind, variant):
    """methods 5. Each divergence and estimate is the loop's; positions without a valid token hold zero."""
    rows, layout = drawn
    D = rules.token_divergence(token_batch(rows, layout, needs(kind)), kind, topk_variant=variant)
    for row, mine in zip(rows, layout.gather(D), strict=True):
        close(mine, loop_divergence(kind, row, variant=variant), 1e-9)
    assert not D[~layout.mask].any()


@given(*PAIRS)
def test_expectations_under_mu(mu, pi):
    """methods P9. Enumerated under mu: E|rho - 1| / 2 is exact TV, E[k3] is KL(mu || pi); KL >= 2 TV^2."""
    every, layout = tuple((Token(mu, pi, y, 1.0),) for y in range(len(mu))), tight(*[1] * len(mu))
    weights, full = torch.tensor(mu, dtype=torch.float64), token_batch(every, layout, "full")
    tv, kl, k3 = (rules.token_divergence(full, kind)[:, 0] for kind in ("exact_tv", "exact_kl", "k3"))
    close(tv, torch.full_like(tv, (weights * (full.ratio[:, 0] - 1).abs()).sum() / 2), 1e-12)
    close(kl, torch.full_like(kl, (weights * k3).sum()), 1e-9)
    assert kl[0] >= 2 * tv[0] ** 2 - 1e-12
    close(reference.total_variation(mu, pi), tv[0], 1e-12)
    close(reference.kl_divergence(mu, pi), kl[0], 1e-9)
    close(reference.total_variation(pi, mu), tv[0], 1e-12)


def test_kl_where_a_token_has_no_mass():
    assert reference.kl_divergence((1.0, 0.0), (0.5, 0.5)) == near(math.log(2))
    assert reference.kl_divergence((0.5, 0.5), (1.0, 0.0)) == math.inf
    mu, pi = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]])
    top = rules.TopLogProbs(pi.log(), mu.log(), torch.zeros(1, 1, dtype=torch.long))
    batch = rules.TokenBatch(pi.log()[..., 0], mu.log()[..., 0], torch.ones(1), top=top)
    assert rules.token_divergence(batch, "exact_kl").item() == pytest.approx(math.log(2))


@given(*PAIRS, st.integers(0, 4))
def test_predicted_drift_is_a_derivative(mu, pi, y):
    """methods 4. The predicted drift is d KL(mu || pi) / d step of a softmax-logit step on log pi(y)."""
    logits = torch.tensor(pi, dtype=torch.float64).log()
    direction = torch.nn.functional.one_hot(torch.tensor(y), len(mu)) - logits.exp()
    kls = [reference.kl_divergence(mu, (logits + h * direction).softmax(0).tolist()) for h in (-1e-4, 1e-4)]
    rate = reference.predicted_drift(mu, pi, y, [(i,) for i in range(len(mu))])
    close((kls[1] - kls[0]) / 2e-4, rate, 1e-5)
    if abs(rate) > 1e-9:
        for advantage in (1.0, -1.0):
            batch = token_batch(((Token(mu, pi, y, advantage),),), tight(1), "full")
            assert predicted_away(batch).item() == (advantage * rate > 0)


def test_the_predicted_direction_overrides_the_ratio():
    # rho > 1 and A > 0, yet the step moves mass back from the third token: KL(mu || pi) falls
    token = Token((0.5, 0.3, 0.2), (0.501, 0.019, 0.48), 0, 1.0)
    for needed, name in (("topk", "dppo-topk-kl"), ("full", "dppo-exact-kl")):
        batch = token_batch(((token,),), tight(1), needed)
        verdicts = {d: rules.get_method(name, direction=d)(batch) for d in ("ratio", "predicted")}
        assert verdicts["ratio"].token_mask.item() is False
        assert verdicts["predicted"].token_mask.item() is True
    assert rules.get_method("cppo", direction="predicted").needs == "topk"
    assert rules.get_method("dppo-exact", direction="predicted").needs == "full"


@given(traces(size=6))
def test_lower_scores_keep_more(drawn):
    """theory 35. A lower bound on D keeps a superset: exact within Top-K within Binary, with a fixed budget."""
    rows, layout = drawn
    kept = []
    for name in ("cppo-exact", "cppo-topk", "cppo"):
        method = rules.get_method(name, budget="fixed")
        kept.append(layout.gather(method(token_batch(rows, layout, method.needs, k=3)).token_mask))
    for exact, topk, binary in zip(*kept, strict=True):
        assert implies(exact, topk)
        assert implies(topk, binary)
