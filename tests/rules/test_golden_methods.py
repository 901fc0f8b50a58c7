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
    return token_batch((row,), tight(len(row)), needs, **options)


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


def test_replace_last_sees_a_tenth():
    token = Token((0.4, 0.3, 0.2, 0.1), (0.4, 0.1, 0.38, 0.12), 3, 1.0)
    batch = token_batch(((token,),), tight(1), "topk", k=2)
    for variant, D, kept in (("union", 0.2, False), ("replace_last", 0.02, True)):
        assert loop_divergence("topk_tv", (token,), 2, variant)[0] == near(D)
        out = rules.get_method("dppo-topk", topk_variant=variant)(batch)
        assert out.divergence.item() == near(D)
        assert out.token_mask.item() is kept


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
    twice = batch.rows(torch.tensor([0, 0]))
    for (largest, mean), verdict in zip(((0.05, math.inf), (math.inf, 0.001), (0.1, 0.002)), verdicts, strict=True):
        limits = {"delta_max": largest, "delta_avg": mean}
        assert of("trm-max", twice, **limits).token_mask.tolist() == [[verdict] * len(D)] * 2
        loop = LOOPS["trm"](reference.Response(mu, pi, [1.0] * len(D), given_divergence=D), **limits)
        assert loop == near([1.1 * verdict] * len(D))


def test_t2_estimates():
    batch = rules.TokenBatch(**log_response([0.1] * 3, [0.11, 0.09, 0.105]))
    k3 = rules.token_divergence(batch, "k3")
    assert k3[0].tolist() == near([0.00468982, 0.00536052, 0.00120984], 1e-8)
    assert k3.mean().item() == near(0.00375339, 1e-8)
    assert rules.token_divergence(batch, "abs_log_ratio").max().item() == near(0.10536052, 1e-8)
    assert -batch.log_ratio.mean().item() == near(-0.01291328, 1e-8)  # k1: negative, so "k1 <= delta" passes silently


# --- weights of tokens, by both twins ---------------------------------------------------------------------------------

TENTHS = [0.1] * 4  # mu, so that pi is a tenth of the ratio


@pytest.mark.parametrize(
    ("name", "params", "mu", "pi", "A", "weights"),
    [
        ("cppo", {}, [0.001], [0.05], 1.0, [50]),
        ("cppo-verl", {"length": 1}, [0.001], [0.05], 1.0, [20]),
        ("ppo", {}, [0.1], [0.4], -1.0, [4]),  # a ratio above c: verl's and TRL's dual clip is off unless asked for
        ("grpo", {}, [0.1], [0.4], -1.0, [4]),
        ("grpo-dual", {}, [0.1], [0.4], -1.0, [0]),
        ("gspo", {"clip_c": 3.0}, [0.1], [0.4], -1.0, [0]),
        ("gspo", {}, [0.1] * 3, [0.11, 0.09, 0.105], 1.0, [0] * 3),
        ("gspo", {}, [0.1] * 3, [0.11, 0.09, 0.105], -1.0, [(1.1 * 0.9 * 1.05) ** (1 / 3)] * 3),  # TRL 5814: no sum
        ("minpro", {}, TENTHS, [0.09, 0.12, 0.05, 0.11], 1.0, [0.9, 1.08, 0.45, 0.55]),
        ("minpro", {"w_max": 1.28, "w_low": 0.8}, TENTHS, [0.09, 0.12, 0.05, 0.11], 1.0, [0.9, 1.08, 0.8, 0.8]),
        ("minpro", {}, TENTHS, [0.15, 0.14, 0.4, 0.05], 1.0, [1.5, 2.1, 5, 0.7]),
        ("cispo", {}, [0.1] * 3, [0.02, 0.1, 0.7], 1.0, [0.2, 1, 5]),
        ("sapo", {}, [0.2], [0.3], 1.0, [1.5 * 0.9400148488]),
        ("sapo", {}, [0.2], [0.3], -1.0, [1.5 * 0.9341398233]),
        ("sapo", {}, [0.2], [0.6], -1.0, [3 * 0.3887788192]),
        ("sapo", {}, [0.2], [0.6], 0.0, [3 * 0.3887788192]),
        ("drpo", {}, [0.5], [0.6], 1.0, [1.2 * 0.992]),
        ("drpo", {}, [0.9], [0.1], -1.0, [0.936 / 9]),
        ("drpo", {"delta": 0.4}, [0.5], [0.6], 1.0, [1.2 * 0.75]),
        ("drpo", {"delta": 0.4, "mu_weighted": False}, [0.5], [0.6], 1.0, [1.2 * 0.5]),
        ("prime-rl", {}, [0.5, 0.2], [0.6, 0.5], 1.0, [1.2 - 2e-3 * math.log(1.2), -2e-3 * math.log(2.5)]),
        ("prime-rl", {}, [0.5, 0.2], [0.6, 0.5], -1.0, [1.2 + 2e-3 * math.log(1.2), 2.5 + 2e-3 * math.log(2.5)]),
        ("ipo", {}, [0.5, 0.2], [0.55, 0.5], -1.0, [1.1 + 2e-3 * math.log(1.1), 2e-3 * math.log(2.5)]),
        ("dro", {}, [0.5, 0.2], [0.6, 0.1], 0.5, [1 - 0.1 * math.log(1.2), 1 + 0.1 * math.log(2)]),
        ("dro", {}, [0.5], [0.6], 0.0, [1]),
        ("topr", {}, [0.5, 0.2], [0.6, 0.1], -1.0, [1, 0.5]),
        ("topr", {}, [0.5, 0.2], [0.6, 0.1], 1.0, [1, 1]),
        ("topr-sequence", {}, [0.5, 0.2], [0.6, 0.1], -1.0, [0.6, 0.6]),
        ("vespo", {}, [0.5, 0.2], [0.25, 0.4], 1.0, [1, 1]),  # unsloth-zoo pull request 870: exp of the sum of logs
        ("vespo", {}, [0.5], [0.25], 1.0, [0.25 * math.exp(1.5)]),
        ("vespo", {}, [0.5], [0.25], -1.0, [0.125 * math.e]),
        ("gmpo", {}, [0.5, 0.2], [0.5, 0.4], 1.0, [math.exp(0.2), 0]),
        ("gmpo", {}, [0.5, 0.2], [0.5, 0.4], -1.0, [2**0.5, 2**0.5]),
        ("opsm", {"delta": 0.3}, [0.5, 0.5], [0.25, 0.49], -1.0, [0, 0]),  # mean log(mu / pi) = .357
        ("opsm", {"delta": 0.4}, [0.5, 0.5], [0.25, 0.49], -1.0, [0, 0.98]),
        ("opsm", {"delta": 0.3}, [0.5, 0.5], [0.25, 0.49], 1.0, [0.5, 0.98]),
        ("rollout-is", {}, [0.5, 0.5, 0.5], [0.39, 0.6, 0.65], 1.0, [0, 1.2, 0]),
        ("luspo", {}, [0.5], [0.501], 1.0, [1.002]),
        ("luspo", {}, [0.5], [0.502], 1.0, [0]),
    ],
)
def test_golden_weights(name, params, mu, pi, A, weights):
    method = rules.get_method(name, **params)
    found = method(rules.TokenBatch(**log_response(mu, pi, A)))
    loop = LOOPS[method.family](reference.Response(mu, pi, [A] * len(mu)), **method.params)
    assert found.weight[0].tolist() == pytest.approx(weights, rel=1e-6)
    assert loop == near(weights)


def test_a_tool_token_is_no_prefix_of_minpro():
    valid = torch.tensor([[True, False, True]])
    out = of("minpro", rules.TokenBatch(**log_response([0.1] * 3, [0.09, 0.01, 0.1]), response_mask=valid))
    assert out.weight[0].tolist() == near([0.9, 0, 0.9], 1e-6)
    assert out.stats["minpro/rho_min"].item() == near(0.9, 1e-6)


COVARIANT = torch.tensor([[0.9, 0.8, 0.6, 0.5], [0.02, 0.03, 0.4, 0.05]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("share", "masked"),
    [(1e-9, {2}), (0.25, {1, 3}), (0.5, {0, 1, 3, 4}), (1.0, {0, 1, 2, 3, 4})],  # of five in the band, evenly
)
def test_clip_cov_takes_every_so_manieth(share, masked):
    """What is dropped is spread evenly over the band in the order of the covariance, and is the same each time."""
    pi = COVARIANT.log()
    batch = rules.TokenBatch(pi, pi, torch.tensor([1.0, -1.0], dtype=torch.float64))
    method = rules.get_method("clip-cov", share=share, cov_low=1.0, cov_high=2.3)
    cov = (batch.advantages * (pi - pi.mean())).flatten()
    band = [i for i in cov.argsort(descending=True).tolist() if 1.0 < cov[i] < 2.3]
    assert len(band) == 5
    for _ in range(2):
        dropped = (~method(batch).token_mask.flatten()).nonzero()[:, 0].tolist()
        assert {band.index(i) for i in dropped} == masked


def test_kl_cov_pulls_the_highest():
    pi = COVARIANT.log()
    batch = rules.TokenBatch(pi, pi - 0.1, torch.tensor([1.0, -0.5], dtype=torch.float64))
    out = rules.get_method("kl-cov", share=0.25, beta=0.5)(batch)
    cov = ((batch.advantages - 0.25) * (pi - pi.mean())).flatten()
    top = set(cov.argsort(descending=True)[:2].tolist())
    rho = math.exp(0.1)
    wanted = [rho - (0.5 / (1.0 if i < 4 else -0.5) if i in top else 0) for i in range(8)]
    assert out.weight.flatten().tolist() == near(wanted, 1e-6)
    assert rules.diagnostics(batch, out)["gate/frac"] == 0.25


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


@pytest.mark.parametrize(("mode", "counted", "left_out"), [
    ("seq-mean-token-mean", 0.5, 1.0), ("seq-mean-token-sum", 1.5, 3.0), ("seq-mean-token-sum-norm", 0.25, 0.5),
    ("token-mean", 1.0, 1.0),
])  # fmt: skip
def test_responses_without_a_token(mode, counted, left_out):
    """TRL 6369: responses that were cut off, taken out of the mask, are in no denominator of tokens."""
    valid = torch.tensor([[True] * 3, [False] * 3])
    for count_empty, wanted in ((True, counted), (False, left_out)):
        found = rules.aggregate(torch.ones(2, 3), valid, mode, horizon=6, count_empty=count_empty)
        loss = rules.policy_loss(
            torch.zeros(2, 3), -torch.ones(2, 3), torch.ones(2), valid, loss_agg_mode=mode, horizon=6,
            count_empty=count_empty,
        )  # fmt: skip
        assert found.item() == loss.item() == wanted
        assert reference.aggregate([[1.0] * 3, []], mode, 6, count_empty) == wanted


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float64])
@pytest.mark.parametrize("normalize", [True, False])
def test_integer_rewards_and_the_epsilon(dtype, normalize):
    """Whole numbers are converted; the deviation gets 1e-6, where TRL adds 1e-4."""
    rewards = torch.tensor([1, 0, 0, 0, 1, 1, 1, 1]).to(dtype)
    out = rules.group_advantages(rewards, 4, normalize_std=normalize)
    std = 0.5 + 1e-6 if normalize else 1.0
    assert out.advantages.tolist() == near([0.75 / std, *[-0.25 / std] * 3, 0, 0, 0, 0], 1e-6)
    assert out.dropped_groups == 1
    assert abs(0.75 / (0.5 + 1e-4) - 0.75 / (0.5 + 1e-6)) > 2e-4
