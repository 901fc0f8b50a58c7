"""Golden numbers of the divergences, the other methods, aggregation and advantages, worked by hand.

The loops are asked where they have a form of their own; that they equal the tensors is a property.
"""

import math
from typing import Any

import pytest
import torch

from minicppo import reference, rules
from minicppo.reference import LOOPS
from tests.rules.strategies import Token, tight
from tests.rules.twins import log_response, loop_divergence, loop_weights, near, token_batch


def of(name: str, batch: rules.TokenBatch, **params: Any) -> rules.TokenWeights:
    return rules.get_method(name, **params)(batch)


def one(row: tuple[Token, ...], needs: str = "log_probs", **options: Any) -> rules.TokenBatch:
    return token_batch((row,), tight([len(row)]), needs, **options)


# --- divergences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mu", "pi", "tv", "kl", "reverse", "verdicts"),
    [
        (0.50, 0.60, 0.10, 0.020411, 0.020136, (1, 1, 1)),
        (0.01, 0.05, 0.04, 0.024736, 0.041291, (0, 1, 1)),
        (0.99, 0.80, 0.19, 0.181005, 0.428672, (1, 0, 0)),
        (0.30, 0.50, 0.20, 0.082283, 0.087177, (0, 0, 0)),
    ],
)
def test_d1_binary(mu, pi, tv, kl, reverse, verdicts):
    row = (Token((mu, 1 - mu), (pi, 1 - pi), 0, 1.0 if pi > mu else -1.0),)
    for kind, expected in (("binary_tv", tv), ("binary_kl", kl)):
        assert rules.token_divergence(one(row), kind).item() == near(expected, 1e-6)
    assert reference.kl_divergence((pi, 1 - pi), (mu, 1 - mu)) == near(reverse, 1e-6)
    for name, kept in zip(("grpo", "dppo", "dppo-kl"), verdicts, strict=True):
        assert of(name, one(row)).token_mask.item() == bool(kept)
        assert (loop_weights(rules.get_method(name), row, width=1)[0] > 0) == bool(kept)


D2 = Token((0.50, 0.25, 0.10, 0.08, 0.05, 0.02), (0.40, 0.20, 0.24, 0.05, 0.03, 0.08), 3, -1.0)


@pytest.mark.parametrize(
    ("name", "needs", "variant", "tv", "kl", "kept"),
    [
        ("binary", "log_probs", "union", 0.03, 0.008079, True),
        ("topk", "topk", "replace_last", 0.13, 0.035913, True),
        ("topk", "topk", "union", 0.18, 0.082195, False),
        ("exact", "full", "union", 0.20, 0.115226, False),
    ],
)
def test_d2_topk(name, needs, variant, tv, kl, kept):
    for advantage, verdict in ((-1.0, kept), (1.0, True)):
        row = (Token(D2.mu, D2.pi, D2.sampled, advantage),)
        for measure, expected in (("tv", tv), ("kl", kl)):
            assert loop_divergence(f"{name}_{measure}", row, 2, variant)[0] == near(expected, 1e-6)
            D = rules.token_divergence(one(row, needs, k=2), f"{name}_{measure}", topk_variant=variant)
            assert D.item() == near(expected, 1e-6)
        out = of("dppo", one(row, needs, k=2), divergence=f"{name}_tv", topk_variant=variant)
        assert out.token_mask.item() is verdict


def test_d2_partitions():
    assert reference.topk_partition(D2.mu, 2, 3) == [(0,), (1,), (3,), (2, 4, 5)]
    assert reference.topk_partition(D2.mu, 2, 3, "replace_last") == [(0,), (3,), (1, 2, 4, 5)]
    assert reference.topk_partition(D2.mu, 2, 1) == [(0,), (1,), (2, 3, 4, 5)]
    assert reference.coarsen(D2.pi, [(0,), (1,), (3,), (2, 4, 5)])[-1] == near(0.35)


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_d3_ratio_one_but_drift(advantage):
    row = (Token((0.5, 0.3, 0.2), (0.5, 0.1, 0.4), 0, advantage),)
    assert rules.token_divergence(one(row, "full"), "exact_tv").item() == near(0.2)
    for name in ("dppo-exact", "cppo-exact"):
        assert of(name, one(row, "full")).token_mask.item()
        assert loop_weights(rules.get_method(name), row, width=1) == [1.0]


# --- TRM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("D", "verdicts"),
    [
        ([0.01, 0.06, 0.002], (False, False, False)),
        ([0.0005, 0.001, 0.0009], (True, True, True)),
        ([0.04, *[0.0] * 49], (True, True, True)),
        ([0.004] * 3, (True, False, False)),
    ],
)
def test_t1_trm(D, verdicts):
    mu, pi = [0.5] * len(D), [0.55] * len(D)
    batch = rules.TokenBatch(**log_response(mu, pi), divergence=torch.tensor([D], dtype=torch.float64))
    for (largest, mean), verdict in zip(((0.05, math.inf), (math.inf, 0.001), (0.1, 0.002)), verdicts, strict=True):
        limits = {"delta_max": largest, "delta_avg": mean}
        assert of("trm-max", batch, **limits).token_mask.tolist() == [[verdict] * len(D)]
        loop = LOOPS["trm"](reference.Response(mu, pi, [1.0] * len(D), given_divergence=D), **limits)
        assert loop == near([1.1 * verdict] * len(D))


def test_t2_estimates():
    batch = ratio_batch([1.1, 0.9, 1.05])
    k3 = rules.token_divergence(batch, "k3")
    assert k3[0].tolist() == near([0.00468982, 0.00536052, 0.00120984], 1e-8)
    assert k3.mean().item() == near(0.00375339, 1e-8)
    assert rules.token_divergence(batch, "abs_log_ratio").max().item() == near(0.10536052, 1e-8)
    assert -batch.log_ratio.mean().item() == near(-0.01291328, 1e-8)  # k1: negative, so "k1 <= delta" passes silently


def test_t3_denominator():
    g = torch.tensor([[1.1] * 3, [0.0] * 3])
    x, ones, valid = torch.zeros(2, 3), torch.ones(2), torch.ones(2, 3, dtype=torch.bool)
    assert rules.policy_loss(x, g, ones, valid, loss_agg_mode="token-mean").item() == near(-0.55, 1e-6)
    only = torch.tensor([True, False])[:, None].expand(2, 3)  # a response taken out of the mask: the bug
    assert rules.policy_loss(x, g, ones, only, loss_agg_mode="token-mean").item() == near(-1.1, 1e-6)


# --- MinPRO, CISPO, GSPO, SAPO, DRPO ----------------------------------------------------------------------------------


def ratio_batch(rho: list[float], valid: list[int] | None = None, advantage: float = 1.0) -> rules.TokenBatch:
    x = torch.tensor([rho], dtype=torch.float64).log()
    mask = None if valid is None else torch.tensor([valid]).bool()
    return rules.TokenBatch(x - 3, torch.full_like(x, -3), torch.tensor([advantage], dtype=torch.float64), mask)


@pytest.mark.parametrize(
    ("rho", "options", "weights"),
    [
        ([0.9, 1.2, 0.5, 1.1], {}, [0.9, 1.08, 0.45, 0.55]),  # M1
        ([0.9, 1.2, 0.5, 1.1], {"w_max": 1.28, "w_low": 0.8}, [0.9, 1.08, 0.8, 0.8]),  # M1b
        ([1.5, 1.4, 4, 0.5], {}, [1.5, 2.1, 5, 0.7]),  # M2
    ],
)
def test_m_minpro(rho, options, weights):
    assert of("minpro", ratio_batch(rho), **options).weight[0].tolist() == near(weights, 1e-6)


def test_cispo():
    assert of("cispo", ratio_batch([0.2, 1, 7])).weight[0].tolist() == near([0.2, 1, 5], 1e-6)


def test_m1_gradient():
    batch = ratio_batch([0.9, 1.2, 0.5, 1.1])
    x = batch.log_probs.clone().requires_grad_()
    g = of("minpro", batch).weight
    rules.policy_loss(x, g, batch.advantages, batch.mask, loss_agg_mode="token-mean").backward()
    assert x.grad[0].tolist() == near([-0.225, -0.27, -0.1125, -0.1375], 1e-7)


def test_m3_tool_token():
    out = of("minpro", ratio_batch([0.9, 0.1, 1.0], [1, 0, 1]))
    assert out.weight[0].tolist() == near([0.9, 0, 0.9], 1e-6)
    assert out.stats["minpro/rho_min"].item() == near(0.9, 1e-6)


@pytest.mark.parametrize(("advantage", "kept"), [(1.0, False), (-1.0, True)])
def test_gspo(advantage, kept):
    out = of("gspo", ratio_batch([1.1, 0.9, 1.05], advantage=advantage))
    assert out.weight[0].tolist() == near([1.0129970 * kept] * 3, 1e-6)
    assert set(out.reason[0].tolist()) <= ({1, 2} if kept else {6})


@pytest.mark.parametrize(
    ("rho", "advantage", "gate"),
    [(1.5, 1.0, 0.940015), (1.5, -1.0, 0.934140), (3.0, 1.0, 0.419974), (3.0, -1.0, 0.388779), (3.0, 0.0, 0.388779)],
)
def test_sapo(rho, advantage, gate):
    assert of("sapo", ratio_batch([rho], advantage=advantage)).weight.item() / rho == near(gate, 1e-6)


@pytest.mark.parametrize(
    ("mu", "pi", "advantage", "gate"), [(0.5, 0.6, 1.0, 0.992), (0.5, 0.6, -1.0, 1.008), (0.9, 0.1, -1.0, 0.936)]
)
def test_drpo(mu, pi, advantage, gate):
    weight = of("drpo", rules.TokenBatch(**log_response([mu], [pi], advantage))).weight.item()
    assert weight * mu / pi == near(gate, 1e-6)


# --- aggregation and advantages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", 1.75),
        ("seq-mean-token-mean", 2.5),
        ("seq-mean-token-sum", 3.5),
        ("seq-mean-token-sum-norm", 0.875),
    ],
)
def test_aggregation(mode, expected):
    values = torch.tensor([[4.0, math.nan, math.inf], [1.0, 1.0, 1.0]])
    valid = torch.tensor([[True, False, False], [True] * 3])
    assert rules.aggregate(values, valid, mode, horizon=4).item() == expected
    assert reference.aggregate([[4.0], [1.0, 1.0, 1.0]], mode, 4) == expected


@pytest.mark.parametrize(
    ("normalize", "ddof", "best", "rest"), [(True, 1, 1.5, -0.5), (True, 0, 1.73205, -0.57735), (False, 1, 0.75, -0.25)]
)
def test_advantages(normalize, ddof, best, rest):
    rewards = [1.0, 0.0, 0.0, 0.0]
    out = rules.group_advantages(torch.tensor(rewards), 4, normalize_std=normalize, ddof=ddof)
    assert out.advantages.tolist() == near([best, rest, rest, rest], 1e-5)
    assert reference.group_advantages(rewards, normalize, ddof) == near([best, rest, rest, rest], 1e-5)


def test_equal_rewards_are_dropped():
    out = rules.group_advantages(torch.tensor([1.0, 1.0, 1.0, 0.0]), 2)
    assert out.advantages.tolist() == [0, 0, 0.5, -0.5]
    assert out.kept.tolist() == [False, False, True, True]
    assert out.dropped_groups == 1
    assert reference.group_advantages([1.0, 1.0]) is None
