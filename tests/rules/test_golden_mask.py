"""Golden numbers of the CPPO mask, worked by hand: put to the loop and to the prefix sum alike."""

import math
from typing import Any

import pytest
import torch

from minicppo import reference, rules
from tests.rules.strategies import Limits, Response, drifting
from tests.rules.twins import code, gradient, log_response, mask, near, steps

PAPER = Limits(delta=0.15, delta_b=0.02, w_min=0.8)
FLAT = PAPER._replace(w_min=1.0)
Found = tuple[list[int], list[float], list[int]]  # M_t, c_t and reasons


def by_loop(response: Response, limits: Limits = PAPER, **options: Any) -> Found:
    found = steps(response, limits, **options)
    return [int(x.keep) for x in found], [x.threshold for x in found], [code(x) for x in found]


def by_prefix_sum(response: Response, limits: Limits = PAPER, **options: Any) -> Found:
    out = mask(response, limits, **options)
    return out.token_mask[0].int().tolist(), out.threshold[0].tolist(), out.reason[0].tolist()


@pytest.fixture(params=[by_loop, by_prefix_sum], ids=["loop", "prefix sum"])
def cppo(request):
    return request.param


# --- C1: all branches -------------------------------------------------------------------------------------------------

MU, PI = [0.50, 0.40, 0.50, 0.90, 0.30], [0.60, 0.48, 0.40, 0.91, 0.50]
D1 = [0.10, 0.08, 0.10, 0.01, 0.20]
BATCH = rules.TokenBatch(**log_response(MU, PI))


def c1(advantage: float = 1.0) -> Response:
    return Response(tuple(D1), tuple(math.log(p / m) for m, p in zip(MU, PI, strict=True)), (advantage,) * 5)


@pytest.mark.parametrize(
    ("advantage", "options", "mask", "threshold"),
    [
        (1.0, {}, [1, 0, 1, 0, 0], [0.15, 0.07, 0.013, -0.059, -0.0505]),
        (-1.0, {}, [1, 1, 0, 1, 1], [0.15, 0.07, 0.013, -0.059, -0.0505]),
        (0.0, {}, [1, 1, 1, 1, 1], [0.15, 0.07, 0.013, -0.059, -0.0505]),
        (1.0, {"limits": FLAT}, [1, 0, 1, 0, 0], [0.15, 0.07, 0.01, -0.07, -0.06]),
        (1.0, {"budget": "off"}, [1, 1, 1, 1, 0], [0.15] * 5),
        (1.0, {"budget": "dynamic"}, [1, 1, 1, 0, 0], [0.15, 0.09, 0.052, -0.002, 0.0235]),
        (1.0, {"budget": "dynamic", "cap_factor": 5.0}, [1, 1, 1, 1, 0], [0.15] * 5),
    ],
)
def test_c1(cppo, advantage, options, mask, threshold):
    found, c, _ = cppo(c1(advantage), **options)
    assert found == mask
    assert c == near(threshold)


def test_c1_reasons(cppo):
    assert cppo(c1(1.0))[2] == [2, 4, 1, 4, 5]
    assert cppo(c1(-1.0))[2] == [1, 1, 4, 1, 1]
    assert cppo(c1(1.0), budget="off")[2] == [2, 2, 1, 2, 3]


def test_c1_record():
    loop, out = steps(c1(), PAPER), rules.cppo_mask(**log_response(MU, PI), budget="fixed")
    assert [x.S_before for x in loop] == near([0, 0.1, 0.176, 0.266, 0.2745])
    assert [x.W_before for x in loop] == near([0, 1, 1.95, 2.85, 3.7])
    assert out.position_weight[0].tolist() == near([1, 0.95, 0.9, 0.85, 0.8])
    assert out.weighted_divergence[0].tolist() == near([0.1, 0.076, 0.09, 0.0085, 0.16])
    assert out.divergence[0].tolist() == near(D1)


def test_c1_gradient():
    out = rules.get_method("cppo", budget="fixed")(BATCH)
    assert out.weight[0].tolist() == near([1.2, 0, 0.8, 0, 0], 1e-6)
    arguments = BATCH.log_probs, out.weight, BATCH.advantages, BATCH.mask
    assert rules.policy_loss(*arguments, loss_agg_mode="token-mean").item() == near(-2.0 / 5, 1e-7)
    found = gradient(rules.policy_loss, *arguments, loss_agg_mode="token-mean")
    assert found[0].tolist() == near([-0.24, 0, -0.16, 0, 0], 1e-7)
    row = rules.diagnostics(BATCH, out)
    shares = [row[f"mask/{k}"] for k in ("frac", "token_only", "prefix_only", "both")]
    assert shares == near([3 / 5, 0, 2 / 5, 1 / 5], 1e-7)


def test_c1_other_methods():
    for name in ("dppo", "cppo-no-budget", "grpo"):
        assert rules.get_method(name)(BATCH).token_mask[0].int().tolist() == [1, 1, 1, 1, 0]
    flat = rules.get_method("cppo-no-weight", budget="fixed", delta_b=0.02)(BATCH)
    assert flat.token_mask[0].int().tolist() == [1, 0, 1, 0, 0]


def test_c1_dynamic_budget_in_full_precision():
    assert reference.quantile(D1, 0.9) == near(0.16)
    for factor, expected in ((2.0, 0.04), (5.0, 0.1)):
        assert reference.dynamic_budget(D1, 0.02, factor) == expected
        out = rules.get_method("cppo", cap_factor=factor)(BATCH)
        assert out.delta_b.tolist() == [expected]  # to the bit: the clamp does not round through float32
        assert out.stats["budget/at_cap"] == 1


def test_c1_soft():
    gates, loop = [1, 0.965909, 1, 0.754098, 0.515535], steps(c1(), PAPER)
    assert reference.soft_gate(loop, delta=0.15, delta_b=0.02) == near(gates, 1e-6)
    out = rules.get_method("cppo-soft", budget="fixed")(BATCH)
    assert (out.weight / BATCH.ratio)[0].tolist() == near(gates, 1e-6)


# --- C2 to C7 ---------------------------------------------------------------------------------------------------------


def test_c2_late_relaxation(cppo):
    D = drifting([0.16, 0.16, 0.18])
    found, c, _ = cppo(D, PAPER._replace(delta_b=1.0))
    assert found == [0, 1, 1]
    assert c == near([0.15] * 3)
    assert cppo(D, FLAT._replace(delta_b=1.0))[0] == [0, 0, 0]  # DPPO
    assert [0.15 / w for w in reference.linear_weights(3, 0.8)] == near([0.15, 0.166667, 0.1875], 1e-6)


@pytest.mark.parametrize(
    ("delta_b", "mask", "threshold"),
    [(0.05, [1, 1, 1, 1, 0], [0.15, 0.05, 0.06, 0.11, 0.09]), (0.06, [1, 1, 1, 1, 1], [0.15, 0.06, 0.08, 0.14, 0.13])],
)
def test_c3_recovery(cppo, delta_b, mask, threshold):
    found, c, _ = cppo(drifting([0.15, 0.04, 0, 0.07, 0.12]), FLAT._replace(delta_b=delta_b))
    assert found == mask
    assert c == near(threshold)


def test_c4_quantile():
    first, second, zeros = [0, 0.01, 0.02, 0.02, 0.035], [0.01, 0.02, 0.05, 0.08, 0.08], torch.zeros(1, 5)
    assert [reference.quantile(D, 0.9) for D in (first, second)] == near([0.029, 0.08])
    for D, factor, expected in ((first, 2.0, 0.029), (second, 2.0, 0.04), (second, 5.0, 0.08)):
        assert reference.dynamic_budget(D, 0.02, factor) == near(expected)
        out = rules.cppo_mask(zeros, zeros, torch.ones(1), divergence=torch.tensor([D]), cap_factor=factor)
        assert out.delta_b.item() == pytest.approx(expected)
    assert reference.dynamic_budget([], 0.02) == 0.02


@pytest.mark.parametrize(("x", "c2", "kept"), [(0.0, 0.05, 0), (0.04, 0.07, 1)])
def test_c4c_not_causal(cppo, x, c2, kept):
    found, c, _ = cppo(drifting([0.12, 0.06, *[0.0] * 18, x]), FLAT, budget="dynamic")
    assert (found[1], c[1]) == (kept, near(c2))  # P90 of 21 values is the third largest: x


def test_c5_own_or_padded_length():
    D, valid = torch.tensor([[0.05, 0.05, 0.18, *[0.0] * 6]]), torch.arange(9)[None] < 3
    x, rule = torch.full((1, 9), -1.0), {"delta_b": 1.0, "budget": "fixed"}
    for length, w3, verdict in (("own", 0.8, True), ("padded", 0.95, False), (9, 0.95, False)):
        out = rules.cppo_mask(x + 0.5, x, torch.ones(1), valid, divergence=D, **rule, length=length)
        assert out.position_weight[0, 2].item() == pytest.approx(w3)
        assert out.token_mask[0, 2].item() is verdict


@pytest.mark.parametrize(("valid", "c4", "kept"), [([1, 1, 1, 1], -0.05, False), ([1, 0, 0, 1], 0.07, True)])
def test_c6_tool_tokens(cppo, valid, c4, kept):
    x, D = (torch.tensor([row], dtype=torch.float64) for row in ([-1.0] * 4, [0.10, 0.08, 0.08, 0.06]))
    v, rule = torch.tensor([valid]).bool(), {"delta_b": 0.02, "w_min": 1.0, "budget": "fixed"}
    out = rules.cppo_mask(x + 0.5, x, torch.ones(1).double(), v, divergence=D, **rule)
    assert (out.threshold[0, 3].item(), out.token_mask[0, 3].item()) == (near(c4), kept)
    found, c, _ = cppo(drifting(D[v].tolist()), FLAT)
    assert (found[-1], c[-1]) == (int(kept), near(c4))


def test_c7_single_token(cppo):
    assert cppo(drifting([0.16]))[0] == [0]  # w = 1; w = w_min, the authors' verl branch, would keep 0.8 * 0.16
    assert reference.linear_weights(1, 0.8) == [1]
