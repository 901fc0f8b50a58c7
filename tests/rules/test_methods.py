"""What is true of every method in the registry (methods.md sections 3 and 8)."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st

import minicppo
from minicppo import rules
from tests.rules import method_properties as holds
from tests.rules.method_properties import SCALES, varied
from tests.rules.strategies import Token, Trace, tight, traces
from tests.rules.twins import token_batch

ANY = st.sampled_from(list(rules.METHODS.values()))


@given(traces(), SCALES, st.integers(0, 59))
def test_every_family_equals_its_loop(drawn, scale, turn):
    """Every family meets every batch, by one of its methods."""
    for family in rules.FAMILIES:
        methods = [method for method in rules.METHODS.values() if method.family == family]
        note(f"the last one of these fails: {methods[turn % len(methods)].name}")
        holds.equals_its_loop(varied(methods[turn % len(methods)], scale), drawn)


@pytest.mark.slow
@given(traces(), SCALES)
def test_every_method_equals_its_loop(drawn, scale):
    """Every method meets every batch."""
    for method in rules.METHODS.values():
        note(f"the last one of these fails: {method.name}")
        holds.equals_its_loop(varied(method, scale), drawn)


@pytest.mark.parametrize("check", holds.AT_ANY_LIMIT)
@given(ANY, traces(), SCALES)
def test_every_method_at_any_limit(check, method, drawn, scale):
    check(varied(method, scale), drawn)


@pytest.mark.parametrize("check", holds.AT_ITS_OWN_LIMITS)
@given(ANY, traces())
def test_every_method_at_its_own_limits(check, method, drawn):
    check(method, drawn)


# --- that they differ -------------------------------------------------------------------------------------------------


def separating_rows() -> tuple[Trace, ...]:
    """Responses at every staleness, so that each limit of each method is passed by some tokens and not by others."""
    generator, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)

    def uniform(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    rows = []
    for scale in (0.02, 0.03, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.15, 0.3, 0.6, 1.0, 2.0):
        for sign in (1.0, -1.0) * 3:
            logits = 2 * uniform(12, 8)
            mu, pi = logits.softmax(-1), (logits + scale * (2 * uniform(12, 8) - 1)).softmax(-1)
            drawn = mu.multinomial(1, generator=generator)[:, 0].tolist()
            old = (logits + scale * (2 * uniform(12, 8, generator=other) - 1)).softmax(-1)
            pairs = zip(mu.tolist(), pi.tolist(), drawn, old.tolist(), strict=True)
            rows.append(tuple(Token(tuple(m), tuple(p), y, sign, tuple(o)) for m, p, y, o in pairs))
    rare, now = (0.02, *[0.14] * 7), (0.3, *[0.1] * 7)
    rows.append((Token(rare, now, 0, 1.0), Token(now, rare, 1, 1.0)))  # rho = 15: beyond every weight cap
    rows.append((Token(rare, rare, 0, 1.0, now),))  # the same of pi_old: beyond every limit of a correction
    seen, hidden = (0.3, 0.2, 0.15), (0.15, 0.1, 0.05, 0.03, 0.02)
    rows.append((Token((*seen, *hidden), (*seen, *hidden[::-1]), 0, 1.0),))  # all drift is outside the top K
    even, tilted = (0.44, *[0.08] * 7), (0.608, *[0.056] * 7)
    rows.append((*[Token(even, even, 0, 1.0)] * 7, Token(even, tilted, 0, 1.0)))  # within delta / w_8 after quiet ones
    return tuple(rows)


ROWS = separating_rows()
BATCHES = {needs: token_batch(ROWS, tight(*map(len, ROWS)), needs, k=3) for needs in ("log_probs", "topk", "full")}


def test_off_policy_all_methods_differ():
    """methods P1 off-policy. With pi != mu no two of the registry's methods give the same gradient."""
    found = {}
    for name, method in rules.METHODS.items():
        gradient = method(BATCHES[method.needs]).weight.double() * BATCHES[method.needs].advantages
        for other, theirs in found.items():
            assert (gradient - theirs).abs().max() > 1e-4, f"{name} and {other} give the same gradient"
        found[name] = gradient


# --- the registry -----------------------------------------------------------------------------------------------------


def test_the_registry():
    assert len(rules.METHODS) >= 63
    for method in rules.METHODS.values():
        assert method.summary
        assert method.formula
        assert method.needs in ("log_probs", "topk", "full")
        assert all(note.source for _, note in method.hypers.values())
        assert {k: v for k, (v, _) in method.hypers.items()} == dict(method.params)
    assert minicppo.cppo_mask is rules.cppo_mask
    with pytest.raises(AttributeError, match="no attribute 'cppo_msk'"):
        minicppo.cppo_msk  # noqa: B018


@pytest.mark.parametrize("name", rules.METHODS)
def test_diagnostics_are_finite_and_consistent(name):
    method = rules.get_method(name)
    batch = BATCHES[method.needs]
    out = method(batch)
    row, valid = rules.diagnostics(batch, out), batch.mask
    assert all(isinstance(v, float) and math.isfinite(v) for v in row.values())
    positive = (batch.advantages > 0)[valid].double().mean().item()
    assert row["mask/frac"] == pytest.approx(positive * row["mask/frac_pos"] + (1 - positive) * row["mask/frac_neg"])
    if method.family == "cppo" and method.params["gate"] == "hard":
        parts = sum(row[f"mask/{k}"] for k in ("token_only", "prefix_only", "both"))
        assert 0 < parts == pytest.approx(row["mask/frac"])
    ratio = batch.ratio[valid]
    assert row["ratio/mean"] == pytest.approx(ratio.mean().item())
    assert row["ratio/min"] <= row["ratio/mean"] <= row["ratio/max"]
    assert row["weight/mean"] == pytest.approx(out.weight[valid].mean().item(), rel=1e-4)
    assert row["kl/k3"] >= 0
    if out.divergence is not None:
        D = out.divergence[valid].double()
        for key, wanted in (("p90", D.quantile(0.9)), ("p99", D.quantile(0.99)), ("max", D.max())):
            assert row[f"div/{key}"] == pytest.approx(wanted.item())
        assert [k for k in row if k.startswith("div/decile_")] == [f"div/decile_{k}" for k in range(10)]
    if out.threshold is not None:
        assert 0 <= row["budget/seq_bound"] <= 1
        assert row["budget/negative"] <= row["budget/seq_bound"] * max(map(len, ROWS))


@pytest.mark.parametrize("name", [name for name, method in rules.METHODS.items() if method.needs != "log_probs"])
def test_more_log_probs_may_carry_a_gradient_and_pass_none_on(name):
    method = rules.get_method(name)
    plain = BATCHES[method.needs]
    pi = plain.top.log_probs.clone().requires_grad_()
    out, expected = method(replace(plain, top=replace(plain.top, log_probs=pi))), method(plain)
    for key, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(out, key), value), key
            assert not getattr(out, key).requires_grad, key
