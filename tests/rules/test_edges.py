"""Degenerate batches, the registry's face, and every diagnostic."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import minicppo
from minicppo import rules
from tests.properties.methods import separating_rows
from tests.strategies import Token, tight
from tests.twins import original, token_batch

ROWS = separating_rows()
LAYOUT = tight([len(r) for r in ROWS])
BATCHES = {needs: token_batch(original(), ROWS, LAYOUT, needs, k=3) for needs in ("log_probs", "topk", "full")}


def empty(batch: int, width: int) -> rules.TokenBatch:
    x = torch.zeros(batch, width)
    cube = torch.zeros(batch, width, 2)
    cells = rules.TopLogProbs(cube, cube, torch.zeros(batch, width, dtype=torch.long))
    return rules.TokenBatch(x, x, torch.zeros(batch), torch.zeros(batch, width, dtype=torch.bool), cells)


@pytest.mark.parametrize("name", rules.METHODS)
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3), (0, 0)])
def test_batches_without_a_valid_token(name: str, shape: tuple[int, int]) -> None:
    m = rules.get_method(name)
    batch = empty(*shape)
    if m.needs == "topk":
        ids = torch.zeros(*shape, 2, dtype=torch.long)
        cells = rules.TopLogProbs(batch.top.log_probs, batch.top.log_probs, batch.top.token_ids, ids)
        batch = rules.TokenBatch(batch.log_probs, batch.log_probs, batch.advantages, batch.response_mask, cells)
    out = m(batch)
    assert out.weight.shape == shape
    assert not out.token_mask.any()
    assert not out.weight.any()
    row = rules.diagnostics(batch, out)
    assert row["mask/frac"] == 0
    loss = rules.policy_loss(batch.log_probs, out.weight, batch.advantages, batch.mask, horizon=4)
    assert loss == 0


@pytest.mark.parametrize("name", [name for name in rules.METHODS if rules.get_method(name).needs != "log_probs"])
def test_cells_may_carry_a_gradient_and_pass_none_on(name: str) -> None:
    method = rules.get_method(name)
    plain = BATCHES[method.needs]
    assert plain.top is not None
    pi = plain.top.log_probs.clone().requires_grad_()
    out, expected = method(replace(plain, top=replace(plain.top, log_probs=pi))), method(plain)
    for key, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(out, key), value), key
            assert not getattr(out, key).requires_grad, key


def test_a_response_without_tokens_beside_a_full_one() -> None:
    x = torch.full((2, 3), -1.0)
    valid = torch.tensor([[True] * 3, [False] * 3])
    out = rules.cppo_mask(x + 0.5, x, torch.ones(2), valid, divergence=torch.full((2, 3), 0.03))
    assert out.delta_b.tolist() == pytest.approx([0.03, 0.02])  # an empty row has the floor
    assert out.reason[1].tolist() == [0, 0, 0]


def test_the_mask_defaults_to_all() -> None:
    x = torch.full((1, 2), -1.0)
    assert rules.TokenBatch(x, x, torch.ones(1)).mask.all()
    lengths = torch.tensor([1, 1])
    packed = rules.TokenBatch.from_packed(lengths, log_probs=x[0], rollout_log_probs=x[0], advantages=torch.ones(2))
    assert packed.mask.all()
    assert packed.lengths.tolist() == [1, 1]


def test_packed_advantages_by_token_or_response() -> None:
    x, lengths = torch.full((5,), -1.0), torch.tensor([2, 3])
    for advantages in (torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0])):
        out = rules.cppo_mask(x + 0.5, x, advantages, lengths=lengths, divergence=torch.full((5,), 0.5))
        assert out.token_mask.tolist() == [False, False, True, True, True]
        assert out.delta_b.shape == (2,)


def test_ratios_are_held_within_e20() -> None:
    x = torch.tensor([[-1.0, -100.0]])
    batch = rules.TokenBatch(x, x.flip(1), torch.ones(1))
    assert batch.log_ratio.tolist() == [[20.0, -20.0]]
    assert torch.isfinite(rules.get_method("none")(batch).weight).all()


def test_kl_where_a_token_has_no_mass() -> None:
    from minicppo import reference

    assert reference.kl_divergence((1.0, 0.0), (0.5, 0.5)) == pytest.approx(math.log(2))
    assert reference.kl_divergence((0.5, 0.5), (1.0, 0.0)) == math.inf
    mu, pi = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]])
    cells = rules.TopLogProbs(pi.log(), mu.log(), torch.zeros(1, 1, dtype=torch.long))
    batch = rules.TokenBatch(pi.log()[..., 0], mu.log()[..., 0], torch.ones(1), top=cells)
    assert rules.token_divergence(batch, "exact_kl").item() == pytest.approx(math.log(2))


def test_gspo_and_reasons_of_whole_responses() -> None:
    out = rules.get_method("gspo")(BATCHES["log_probs"])
    assert out.sequence_level
    row = rules.diagnostics(BATCHES["log_probs"], out)
    assert 0 < row["accept/rate"] < 1
    lengths = {k for k in row if k.startswith("accept/len_")}
    assert lengths == {"accept/len_1", "accept/len_2", "accept/len_8", "accept/len_16"}


@pytest.mark.parametrize("name", rules.METHODS)
def test_diagnostics_are_finite_and_consistent(name: str) -> None:
    m = rules.get_method(name)
    batch = BATCHES[m.needs]
    out = m(batch)
    row = rules.diagnostics(batch, out)
    assert all(isinstance(v, float) and math.isfinite(v) for v in row.values())
    positive = (batch.advantages > 0)[batch.mask].double().mean().item()
    assert row["mask/frac"] == pytest.approx(positive * row["mask/frac_pos"] + (1 - positive) * row["mask/frac_neg"])
    if m.family == "cppo" and m.params["gate"] == "hard":
        parts = sum(row[f"mask/{k}"] for k in ("token_only", "prefix_only", "both"))
        assert parts == pytest.approx(row["mask/frac"])
        assert row["mask/frac"] > 0
    ratio = batch.ratio[batch.mask]
    assert row["ratio/mean"] == pytest.approx(ratio.mean().item())
    assert row["ratio/min"] <= row["ratio/mean"] <= row["ratio/max"]
    assert row["weight/mean"] == pytest.approx(out.weight[batch.mask].mean().item(), rel=1e-4)
    assert row["kl/k3"] >= 0
    if out.divergence is not None:
        D = out.divergence[batch.mask].double()
        for q, key in ((0.9, "div/p90"), (0.99, "div/p99")):
            assert row[key] == pytest.approx(D.quantile(q).item())
        assert row["div/max"] == pytest.approx(D.max().item())
        assert [k for k in row if k.startswith("div/decile_")] == [f"div/decile_{k}" for k in range(10)]
    if out.threshold is not None:
        assert 0 <= row["budget/seq_bound"] <= 1
        assert row["budget/negative"] <= row["budget/seq_bound"] * max(map(len, ROWS))


def test_dynamic_budget_statistics() -> None:
    out = rules.get_method("cppo", delta_b=0.05)(BATCHES["log_probs"])
    row = rules.diagnostics(BATCHES["log_probs"], out)
    assert row["budget/delta_b_min"] == pytest.approx(0.05)
    assert row["budget/delta_b_max"] == pytest.approx(0.10)
    assert row["budget/at_floor"] + row["budget/at_cap"] < 1
    assert row["budget/at_floor"] > 0
    assert row["budget/at_cap"] > 0
    free = rules.get_method("cppo", delta_b=math.inf)(BATCHES["log_probs"])
    assert "budget/at_floor" not in free.stats


def test_deciles_follow_the_position() -> None:
    x = torch.full((1, 20), -1.0)
    D = torch.arange(20.0)[None] / 20
    batch = rules.TokenBatch(x, x, torch.ones(1), divergence=D)
    row = rules.diagnostics(batch, rules.get_method("dppo")(batch))
    assert [row[f"div/decile_{k}"] for k in range(10)] == pytest.approx([(4 * k + 1) / 40 for k in range(10)])


def test_a_given_divergence_is_used_and_follows_its_rows() -> None:
    x = torch.full((2, 3), -1.0)
    D = torch.tensor([[0.0] * 3, [0.5] * 3])
    batch = rules.TokenBatch(x + 0.5, x, torch.ones(2), divergence=D)
    for name in ("dppo", "dppo-topk", "cppo", "trm-max-exact"):
        assert rules.get_method(name)(batch).token_mask.tolist() == [[True] * 3, [False] * 3]
    assert rules.get_method("dppo")(batch.rows(torch.tensor([1]))).token_mask.tolist() == [[False] * 3]


def test_the_predicted_direction_overrides_the_ratio() -> None:
    # rho > 1 and A > 0, yet the step moves mass back from the third token: KL(mu || pi) falls
    token = Token((0.5, 0.3, 0.2), (0.501, 0.019, 0.48), 0, 1.0)
    for needs in ("topk", "full"):
        batch = token_batch(original(), ((token,),), tight([1]), needs)
        m = {
            d: rules.get_method("dppo-exact-kl" if needs == "full" else "dppo-topk-kl", direction=d)
            for d in ("ratio", "predicted")
        }
        assert m["ratio"](batch).token_mask.item() is False
        assert m["predicted"](batch).token_mask.item() is True
    assert rules.get_method("cppo", direction="predicted").needs == "topk"
    assert rules.get_method("dppo-exact", direction="predicted").needs == "full"


def test_the_registry() -> None:
    assert len(rules.METHODS) >= 25
    for name, spec in rules.METHODS.items():
        m = rules.get_method(name)
        assert spec.summary
        assert m.formula
        assert m.needs in ("log_probs", "topk", "full")
        assert set(m.hypers) == set(m.params)
        assert all(note.source for _, note in m.hypers.values())
        assert {k: v for k, (v, _) in m.hypers.items()} == dict(m.params)
    assert minicppo.cppo_mask is rules.cppo_mask


def test_large_batches_have_a_quantile() -> None:
    # torch.quantile refuses more than 2**24 elements
    x = torch.zeros(2, 2**16)
    out = rules.cppo_mask(x, x, torch.ones(2), divergence=torch.full_like(x, 0.03))
    assert out.delta_b.tolist() == pytest.approx([0.03, 0.03])
