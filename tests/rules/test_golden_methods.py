"""Golden numbers of the divergences, the other methods, aggregation and advantages, for loops and prefix sums alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from minicppo import reference, rules
from minicppo.reference import LOOPS, Response
from tests.strategies import Token, tight
from tests.twins import log_response, loop_divergence, loop_weights, near, token_batch

# --- divergences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mu", "pi", "tv", "kl", "reverse", "ppo", "by_tv", "by_kl"),
    [
        (0.50, 0.60, 0.10, 0.020411, 0.020136, 1, 1, 1),
        (0.01, 0.05, 0.04, 0.024736, 0.041291, 0, 1, 1),
        (0.99, 0.80, 0.19, 0.181005, 0.428672, 1, 0, 0),
        (0.30, 0.50, 0.20, 0.082283, 0.087177, 0, 0, 0),
    ],
)
def test_d1_binary(mu, pi, tv, kl, reverse, ppo, by_tv, by_kl):
    away = 1.0 if pi > mu else -1.0
    two = lambda p: (p, 1 - p)  # noqa: E731
    row = (Token(two(mu), two(pi), 0, away),)
    batch = token_batch((row,), tight([1]))
    for kind, expected in (("binary_tv", tv), ("binary_kl", kl)):
        assert reference.divergence(kind, two(mu), two(pi), 0) == near(expected, 1e-6)
        assert rules.token_divergence(batch, kind).item() == near(expected, 1e-6)
    assert reference.kl_divergence(two(pi), two(mu)) == near(reverse, 1e-6)
    methods = (("grpo", ppo), ("dppo", by_tv), ("dppo-kl", by_kl))
    for name, kept in methods:
        m = rules.get_method(name)
        assert m(batch).token_mask.item() == bool(kept)
        assert (loop_weights(m, row, width=1)[0] > 0) == bool(kept)


D2 = Token((0.50, 0.25, 0.10, 0.08, 0.05, 0.02), (0.40, 0.20, 0.24, 0.05, 0.03, 0.08), 3, -1.0)


@pytest.mark.parametrize(
    ("name", "variant", "tv", "kl", "kept"),
    [
        ("binary", "union", 0.03, 0.008079, True),
        ("topk", "replace_last", 0.13, 0.035913, True),
        ("topk", "union", 0.18, 0.082195, False),
        ("exact", "union", 0.20, 0.115226, False),
    ],
)
def test_d2_topk(name, variant, tv, kl, kept):
    needs = {"binary": "log_probs", "topk": "topk", "exact": "full"}[name]
    for advantage, verdict in ((-1.0, kept), (1.0, True)):
        row = (Token(D2.mu, D2.pi, D2.sampled, advantage),)
        batch = token_batch((row,), tight([1]), needs, k=2)
        for measure, expected in (("tv", tv), ("kl", kl)):
            assert loop_divergence(f"{name}_{measure}", row, 2, variant)[0] == near(expected, 1e-6)
            D = rules.token_divergence(batch, f"{name}_{measure}", topk_variant=variant)
            assert D.item() == near(expected, 1e-6)
        m = rules.get_method("dppo", divergence=f"{name}_tv", topk_variant=variant)
        assert m(batch).token_mask.item() is verdict
        assert (loop_weights(m, row, width=1)[0] > 0) is verdict


def test_d2_partitions():
    assert reference.topk_partition(D2.mu, 2, 3) == [(0,), (1,), (3,), (2, 4, 5)]
    assert reference.topk_partition(D2.mu, 2, 3, "replace_last") == [(0,), (3,), (1, 2, 4, 5)]
    assert reference.topk_partition(D2.mu, 2, 1) == [(0,), (1,), (2, 3, 4, 5)]
    assert reference.coarsen(D2.pi, [(0,), (1,), (3,), (2, 4, 5)])[-1] == near(0.35)


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_d3_ratio_one_but_drift(advantage):
    row = (Token((0.5, 0.3, 0.2), (0.5, 0.1, 0.4), 0, advantage),)
    batch = token_batch((row,), tight([1]), "full")
    assert rules.token_divergence(batch, "exact_tv").item() == near(0.2)
    assert reference.divergence("exact_tv", row[0].mu, row[0].pi, 0) == near(0.2)
    for name in ("dppo-exact", "cppo-exact"):
        m = rules.get_method(name)
        assert m(batch).token_mask.item()
        assert loop_weights(m, row, width=1) == [1.0]


# --- TRM --------------------------------------------------------------------------------------------------------------

T1 = {
    "A": ([0.01, 0.06, 0.002], 0.06, 0.024, (False, False, False)),
    "B": ([0.0005, 0.001, 0.0009], 0.001, 0.0008, (True, True, True)),
    "C": ([0.04, *[0.0] * 49], 0.04, 0.0008, (True, True, True)),
    "E": ([0.004] * 3, 0.004, 0.004, (True, False, False)),
}
TRM = (
    {"delta_max": 0.05},
    {"delta_avg": 0.001},
    {"delta_max": 0.1, "delta_avg": 0.002},
)


@pytest.mark.parametrize("name", T1)
def test_t1_trm(name):
    D, largest, mean, verdicts = T1[name]
    assert (max(D), sum(D) / len(D)) == near((largest, mean))
    mu, pi = [0.5] * len(D), [0.55] * len(D)
    inputs = log_response(mu, pi, 1.0)
    batch = rules.TokenBatch(**inputs, divergence=torch.tensor([D], dtype=torch.float64))
    for limits, verdict in zip(TRM, verdicts, strict=True):
        out = rules.get_method("trm-max", **{"delta_max": math.inf, **limits})(batch)
        assert out.token_mask.all().item() is verdict
        assert out.token_mask.any().item() is verdict
        g = LOOPS["trm"](Response(mu, pi, [1.0] * len(D), given_divergence=D), **limits)
        assert g == near([1.1 * verdict] * len(D))


def test_t2_estimates():
    mu, rho = [0.5] * 3, [1.1, 0.9, 1.05]
    batch = rules.TokenBatch(**log_response(mu, [m * r for m, r in zip(mu, rho, strict=True)], 1.0))
    expected = [0.00468982, 0.00536052, 0.00120984]
    assert rules.token_divergence(batch, "k3")[0].tolist() == near(expected, 1e-8)
    assert Response(mu, [m * r for m, r in zip(mu, rho, strict=True)], []).divergence("k3") == near(expected, 1e-8)
    assert rules.token_divergence(batch, "k3").mean().item() == near(0.00375339, 1e-8)
    assert rules.token_divergence(batch, "abs_log_ratio").max().item() == near(0.10536052, 1e-8)
    assert -batch.log_ratio.mean().item() == near(-0.01291328, 1e-8)  # k1: negative, so "k1 <= delta" passes silently


def test_t3_denominator():
    g = torch.tensor([[1.1] * 3, [0.0] * 3])
    x, ones, valid = torch.zeros(2, 3), torch.ones(2), torch.ones(2, 3, dtype=torch.bool)
    assert rules.policy_loss(x, g, ones, valid, loss_agg_mode="token-mean").item() == near(-0.55, 1e-6)
    assert reference.policy_loss(g.tolist(), [[1.0] * 3] * 2, "token-mean") == near(-0.55, 1e-6)
    only = torch.tensor([True, False])[:, None].expand(2, 3)  # a response taken out of the mask: the bug
    assert rules.policy_loss(x, g, ones, only, loss_agg_mode="token-mean").item() == near(-1.1, 1e-6)


# --- MinPRO, CISPO, GSPO, SAPO, DRPO ----------------------------------------------------------------------------------


def ratio_batch(rho: list[float], valid: list[int] | None = None, advantage: float = 1.0) -> Any:
    x = torch.tensor([rho], dtype=torch.float64).log()
    mask = None if valid is None else torch.tensor([valid]).bool()
    return rules.TokenBatch(x - 3, torch.full_like(x, -3), torch.tensor([advantage], dtype=torch.float64), mask)


@pytest.mark.parametrize(
    ("rho", "options", "weights"),
    [
        ([0.9, 1.2, 0.5, 1.1], {"w_max": 5.0}, [0.9, 1.08, 0.45, 0.55]),  # M1
        ([0.9, 1.2, 0.5, 1.1], {"w_max": 1.28, "w_low": 0.8}, [0.9, 1.08, 0.8, 0.8]),  # M1b
        ([1.5, 1.4, 4, 0.5], {"w_max": 5.0}, [1.5, 2.1, 5, 0.7]),  # M2
    ],
)
def test_m_minpro(rho, options, weights):
    batch = ratio_batch(rho)
    out = rules.get_method("minpro", **options)(batch)
    assert out.weight[0].tolist() == near(weights, 1e-6)
    assert LOOPS["minpro"](Response([0.1] * 4, [0.1 * r for r in rho], [1.0] * 4), **options) == near(weights)


def test_m1_gradient():
    batch = ratio_batch([0.9, 1.2, 0.5, 1.1])
    x = batch.log_probs.clone().requires_grad_()
    g = rules.get_method("minpro")(batch).weight
    rules.policy_loss(x, g, batch.advantages, batch.mask, loss_agg_mode="token-mean").backward()
    assert x.grad[0].tolist() == near([-0.225, -0.27, -0.1125, -0.1375], 1e-7)


def test_m3_tool_token():
    out = rules.get_method("minpro")(ratio_batch([0.9, 0.1, 1.0], [1, 0, 1]))
    assert out.weight[0].tolist() == near([0.9, 0, 0.9], 1e-6)
    assert LOOPS["minpro"](Response([0.5] * 2, [0.45, 0.5], [1.0] * 2), w_max=5.0) == near([0.9, 0.9])
    assert out.stats["minpro/rho_min"].item() == near(0.9, 1e-6)


def test_cispo():
    rho = [0.2, 1, 7]
    assert rules.get_method("cispo")(ratio_batch(rho)).weight[0].tolist() == near([0.2, 1, 5], 1e-6)
    assert LOOPS["cispo"](Response([0.1] * 3, [0.1 * r for r in rho], [1.0] * 3), w_max=5.0) == near([0.2, 1, 5])


@pytest.mark.parametrize(("advantage", "kept"), [(1.0, False), (-1.0, True)])
def test_gspo(advantage, kept):
    rho = [1.1, 0.9, 1.05]
    s = 1.0129970 * kept
    out = rules.get_method("gspo")(ratio_batch(rho, advantage=advantage))
    assert out.weight[0].tolist() == near([s] * 3, 1e-6)
    assert set(out.reason[0].tolist()) <= ({1, 2} if kept else {6})
    loop = LOOPS["gspo"](Response([0.1] * 3, [0.1 * r for r in rho], [advantage] * 3), clip_low=3e-4, clip_high=4e-4)
    assert loop == near([s] * 3, 1e-6)


@pytest.mark.parametrize(
    ("rho", "advantage", "gate"),
    [(1.5, 1.0, 0.940015), (1.5, -1.0, 0.934140), (3.0, 1.0, 0.419974), (3.0, -1.0, 0.388779), (3.0, 0.0, 0.388779)],
)
def test_sapo(rho, advantage, gate):
    weight = rules.get_method("sapo")(ratio_batch([rho], advantage=advantage)).weight.item()
    assert weight / rho == near(gate, 1e-6)
    (loop,) = LOOPS["sapo"](Response([0.1], [0.1 * rho], [advantage]), tau_pos=1.0, tau_neg=1.05)
    assert loop / rho == near(gate, 1e-6)


@pytest.mark.parametrize(
    ("mu", "pi", "advantage", "objective", "gate"),
    [
        (0.5, 0.6, 1.0, 1.1992, 0.992),
        (0.5, 0.6, -1.0, -1.2008, 1.008),
        (0.9, 0.1, -1.0, None, 0.936),
    ],
)
def test_drpo(mu, pi, advantage, objective, gate):
    rho = pi / mu
    batch = rules.TokenBatch(**log_response([mu], [pi], advantage))
    assert rules.get_method("drpo")(batch).weight.item() / rho == near(gate, 1e-6)
    (loop,) = LOOPS["drpo"](Response([mu], [pi], [advantage]), delta=12.5)
    assert loop / rho == near(gate, 1e-6)
    if objective is not None:
        assert rho * advantage - abs(advantage) * mu * (rho - 1) ** 2 / (2 * 12.5) == near(objective)


# --- aggregation and advantages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "horizon", "expected"),
    [
        ("token-mean", None, 1.75),
        ("seq-mean-token-mean", None, 2.5),
        ("seq-mean-token-sum", None, 3.5),
        ("seq-mean-token-sum-norm", 4, 0.875),
    ],
)
def test_aggregation(mode, horizon, expected):
    values = torch.tensor([[4.0, math.nan, math.inf], [1.0, 1.0, 1.0]])
    valid = torch.tensor([[True, False, False], [True] * 3])
    assert rules.aggregate(values, valid, mode, horizon=horizon).item() == expected
    assert reference.aggregate([[4.0], [1.0, 1.0, 1.0]], mode, horizon) == expected


@pytest.mark.parametrize(
    ("normalize", "ddof", "expected"),
    [
        (True, 1, [1.5, -0.5, -0.5, -0.5]),
        (True, 0, [1.73205, -0.57735, -0.57735, -0.57735]),
        (False, 1, [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_advantages(normalize, ddof, expected):
    rewards = [1.0, 0.0, 0.0, 0.0]
    out = rules.group_advantages(torch.tensor(rewards), 4, normalize_std=normalize, ddof=ddof)
    assert out.advantages.tolist() == near(expected, 1e-5)
    assert out.kept.all()
    assert reference.group_advantages(rewards, normalize, ddof) == near(expected, 1e-5)


def test_equal_rewards_are_dropped():
    out = rules.group_advantages(torch.tensor([1.0, 1.0, 1.0, 0.0]), 2)
    assert out.advantages.tolist() == [0, 0, 0.5, -0.5]
    assert out.kept.tolist() == [False, False, True, True]
    assert out.dropped_groups == 1
    assert reference.group_advantages([1.0, 1.0]) is None
