"""Golden numbers of the CPPO mask, put to the loop and to the prefix sum alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch

from minicppo import reference, rules
from minicppo.reference import LOOPS
from tests.strategies import Limits, Response, drifting
from tests.twins import log_response, mask, near, steps

REASONS = {"toward": 1, "inside": 2, "token": 3, "prefix": 4, "both": 5}
PAPER = Limits(delta=0.15, delta_b=0.02, w_min=0.8)
Found = tuple[list[int], list[float], list[int]]  # M_t, c_t, reasons


def by_loop(response: Response, limits: Limits = PAPER, **options: Any) -> Found:
    found = steps(response, limits, **options)
    return [int(x.keep) for x in found], [x.threshold for x in found], [REASONS[x.reason] for x in found]


def by_prefix_sum(response: Response, limits: Limits = PAPER, **options: Any) -> Found:
    out = mask(response, limits, **options)
    return out.token_mask[0].int().tolist(), out.threshold[0].tolist(), out.reason[0].tolist()


@pytest.fixture(params=[by_loop, by_prefix_sum], ids=["loop", "prefix sum"])
def cppo(request: pytest.FixtureRequest) -> Callable[..., Found]:
    return request.param


# --- C1: all branches -------------------------------------------------------------------------------------------------

MU, PI = [0.50, 0.40, 0.50, 0.90, 0.30], [0.60, 0.48, 0.40, 0.91, 0.50]
D1 = [0.10, 0.08, 0.10, 0.01, 0.20]
LOOPS_SEE = reference.Response(MU, PI, [1.0] * 5, given_divergence=D1)


def c1(advantage: float) -> Response:
    return Response(tuple(D1), tuple(math.log(p / m) for m, p in zip(MU, PI, strict=True)), (advantage,) * 5)


@pytest.mark.parametrize(
    ("advantage", "options", "mask", "threshold"),
    [
        (1.0, {}, [1, 0, 1, 0, 0], [0.15, 0.07, 0.013, -0.059, -0.0505]),
        (-1.0, {}, [1, 1, 0, 1, 1], [0.15, 0.07, 0.013, -0.059, -0.0505]),
        (0.0, {}, [1, 1, 1, 1, 1], [0.15, 0.07, 0.013, -0.059, -0.0505]),
        (1.0, {"limits": PAPER.replace(w_min=1.0)}, [1, 0, 1, 0, 0], None),
        (1.0, {"budget": "off"}, [1, 1, 1, 1, 0], [0.15] * 5),
        (1.0, {"budget": "dynamic"}, [1, 1, 1, 0, 0], [0.15, 0.09, 0.052, -0.002, 0.0235]),
        (1.0, {"budget": "dynamic", "cap_factor": 5.0}, [1, 1, 1, 1, 0], [0.15] * 5),
    ],
)
def test_c1(cppo, advantage, options, mask, threshold):
    found, c, _ = cppo(c1(advantage), **options)
    assert found == mask
    if threshold is not None:
        assert c == near(threshold)


def test_c1_reasons(cppo):
    assert cppo(c1(1.0))[2] == [2, 4, 1, 4, 5]
    assert cppo(c1(-1.0))[2] == [1, 1, 4, 1, 1]
    assert cppo(c1(1.0), budget="off")[2] == [2, 2, 1, 2, 3]


def test_c1_record():
    steps = reference.cppo_steps(D1, [True] * 5, delta=0.15, delta_b=0.02, weights=reference.linear_weights(5, 0.8))
    out = rules.cppo_mask(**log_response(MU, PI, 1.0), budget="fixed")
    assert [x.position_weight for x in steps] == near([1, 0.95, 0.9, 0.85, 0.8])
    assert [x.weighted_divergence for x in steps] == near([0.1, 0.076, 0.09, 0.0085, 0.16])
    assert [x.S_before for x in steps] == near([0, 0.1, 0.176, 0.266, 0.2745])
    assert [x.W_before for x in steps] == near([0, 1, 1.95, 2.85, 3.7])
    assert out.position_weight[0].tolist() == near([1, 0.95, 0.9, 0.85, 0.8])
    assert out.weighted_divergence[0].tolist() == near([0.1, 0.076, 0.09, 0.0085, 0.16])
    assert out.divergence[0].tolist() == near(D1)
    assert out.reason[0].tolist() == [2, 4, 1, 4, 5]


def test_c1_gradient():
    inputs = log_response(MU, PI, 1.0)
    batch = rules.TokenBatch(**inputs)
    out = rules.get_method("cppo", budget="fixed")(batch)
    assert out.weight[0].tolist() == near([1.2, 0, 0.8, 0, 0], 1e-6)
    loop = LOOPS["cppo"](LOOPS_SEE, delta=0.15, delta_b=0.02, budget="fixed")
    assert loop == near([1.2, 0, 0.8, 0, 0])
    log_probs = inputs["log_probs"].requires_grad_()
    loss = rules.policy_loss(log_probs, out.weight, inputs["advantages"], batch.mask, loss_agg_mode="token-mean")
    loss.backward()
    assert loss.item() == pytest.approx(-2.0 / 5)
    assert log_probs.grad[0].tolist() == near([-0.24, 0, -0.16, 0, 0], 1e-7)
    row = rules.diagnostics(batch, out)
    assert row["mask/frac"] == pytest.approx(3 / 5)
    assert [row[f"mask/{k}"] for k in ("token_only", "prefix_only", "both")] == near([0, 2 / 5, 1 / 5], 1e-7)


def test_c1_other_methods():
    batch = rules.TokenBatch(**log_response(MU, PI, 1.0))
    for name in ("dppo", "cppo-no-budget", "grpo"):
        assert rules.get_method(name)(batch).token_mask[0].int().tolist() == [1, 1, 1, 1, 0]
    flat = rules.get_method("cppo-no-weight", budget="fixed", delta_b=0.02)(batch)
    assert flat.token_mask[0].int().tolist() == [1, 0, 1, 0, 0]
    for f, options in (("dppo", {"delta": 0.15}), ("ppo", {"clip_low": 0.2, "clip_high": 0.28})):
        assert [int(g > 0) for g in LOOPS[f](LOOPS_SEE, **options)] == [1, 1, 1, 1, 0]


def test_c1_dynamic_budget_in_full_precision():
    assert reference.quantile(D1, 0.9) == pytest.approx(0.16)
    for factor, expected in ((2.0, 0.04), (5.0, 0.1)):
        assert reference.dynamic_budget(D1, 0.02, factor) == expected
        out = rules.cppo_mask(**log_response(MU, PI, 1.0), cap_factor=factor)
        assert out.delta_b.tolist() == [expected]  # to the bit: the clamp does not round through float32
        assert (
            rules.get_method("cppo", cap_factor=factor)(rules.TokenBatch(**log_response(MU, PI, 1.0))).stats[
                "budget/at_cap"
            ]
            == 1
        )


def test_c1_soft():
    gates = [1, 0.965909, 1, 0.754098, 0.515535]
    steps = reference.cppo_steps(D1, c1(1.0).away, delta=0.15, delta_b=0.02, weights=reference.linear_weights(5, 0.8))
    assert reference.soft_gate(steps, delta=0.15, delta_b=0.02) == near(gates, 1e-6)
    x = [
        max(s.weighted_divergence / 0.15, (s.S_before + s.weighted_divergence) / (0.15 + 0.02 * s.W_before))
        for s in steps
    ]
    assert x == near([0.666667, 1.035294, 1.407407, 1.326087, 1.939732], 1e-6)
    batch = rules.TokenBatch(**log_response(MU, PI, 1.0))
    out = rules.get_method("cppo-soft", budget="fixed")(batch)
    assert (out.weight / batch.ratio)[0].tolist() == near(gates, 1e-6)


# --- C2 to C7 ---------------------------------------------------------------------------------------------------------


def test_c2_late_relaxation(cppo):
    mask, c, _ = cppo(drifting([0.16, 0.16, 0.18]), PAPER.replace(delta_b=1.0))
    assert mask == [0, 1, 1]
    assert c == near([0.15] * 3)
    assert cppo(drifting([0.16, 0.16, 0.18]), PAPER.replace(delta_b=1.0, w_min=1.0))[0] == [0, 0, 0]  # DPPO
    assert [0.15 / w for w in reference.linear_weights(3, 0.8)] == near([0.15, 0.166667, 0.1875], 1e-6)


@pytest.mark.parametrize(
    ("delta_b", "mask", "threshold"),
    [
        (0.05, [1, 1, 1, 1, 0], [0.15, 0.05, 0.06, 0.11, 0.09]),
        (0.06, [1, 1, 1, 1, 1], [0.15, 0.06, 0.08, 0.14, 0.13]),
    ],
)
def test_c3_recovery(cppo, delta_b, mask, threshold):
    found, c, _ = cppo(drifting([0.15, 0.04, 0, 0.07, 0.12]), PAPER.replace(delta_b=delta_b, w_min=1.0))
    assert found == mask
    assert c == near(threshold)


def test_c3_in_fractions():
    D = [Fraction(x, 100) for x in (15, 4, 0, 7, 12)]
    mask = reference.cppo_token_mask(
        D, [True] * 5, delta=Fraction(15, 100), delta_b=Fraction(6, 100), w_min=Fraction(1)
    )
    assert mask == [True] * 5
    assert reference.cppo_token_mask(
        D[:1], [True], delta=Fraction(15, 100), delta_b=Fraction(6, 100), w_min=Fraction(1, 2)
    ) == [True]


def test_c4_quantile():
    first, second = [0, 0.01, 0.02, 0.02, 0.035], [0.01, 0.02, 0.05, 0.08, 0.08]
    assert reference.quantile(first, 0.9) == pytest.approx(0.029)
    assert reference.quantile(second, 0.9) == pytest.approx(0.08)
    for D, factor, expected in ((first, 2.0, 0.029), (second, 2.0, 0.04), (second, 5.0, 0.08)):
        assert reference.dynamic_budget(D, 0.02, factor) == pytest.approx(expected)
        out = rules.cppo_mask(
            torch.zeros(1, 5), torch.zeros(1, 5), torch.ones(1), divergence=torch.tensor([D]), cap_factor=factor
        )
        assert out.delta_b.item() == pytest.approx(expected)
    assert reference.dynamic_budget([], 0.02) == 0.02


def test_c4c_not_causal(cppo):
    for x, c2, kept in ((0.0, 0.05, 0), (0.04, 0.07, 1)):
        mask, c, _ = cppo(drifting([0.12, 0.06, *[0.0] * 18, x]), PAPER.replace(w_min=1.0), budget="dynamic")
        # P90 of 21 values is the third largest: x
        assert c[1] == near(c2)
        assert mask[1] == kept


def test_c5_own_or_padded_length():
    D = torch.tensor([[0.05, 0.05, 0.18, *[0.0] * 6]])
    valid = torch.tensor([[True] * 3 + [False] * 6])
    x = torch.full((1, 9), -1.0)
    for length, w3, verdict in (("own", 0.8, True), ("padded", 0.95, False), (9, 0.95, False)):
        out = rules.cppo_mask(
            x + 0.5, x, torch.ones(1), valid, divergence=D, delta_b=1.0, budget="fixed", length=length
        )
        assert out.position_weight[0, 2].item() == pytest.approx(w3)
        assert out.token_mask[0, 2].item() is verdict
    keep = [
        s.keep
        for s in reference.cppo_steps(
            D[0, :3].tolist(), [True] * 3, delta=0.15, delta_b=1.0, weights=reference.linear_weights(9, 0.8)[:3]
        )
    ]
    assert keep == [True, True, False]
    assert reference.cppo_token_mask(D[0, :3].tolist(), [True] * 3, delta=0.15, delta_b=1.0, w_min=0.8)[2]


def test_c6_tool_tokens(cppo):
    x = torch.full((1, 4), -1.0, dtype=torch.float64)
    D = torch.tensor([[0.10, 0.08, 0.08, 0.06]], dtype=torch.float64)
    for valid, c4, kept in (([1, 1, 1, 1], -0.05, False), ([1, 0, 0, 1], 0.07, True)):
        v = torch.tensor([valid]).bool()
        out = rules.cppo_mask(
            x + 0.5, x, torch.ones(1).double(), v, divergence=D, delta_b=0.02, w_min=1.0, budget="fixed"
        )
        assert out.threshold[0, 3].item() == near(c4)
        assert out.token_mask[0, 3].item() is kept
        mask, c, _ = cppo(drifting(D[v].tolist()), PAPER.replace(w_min=1.0))
        assert (mask[-1], c[-1]) == (int(kept), near(c4))


def test_c7_single_token(cppo):
    assert cppo(drifting([0.16]))[0] == [0]  # w = 1
    assert reference.linear_weights(1, 0.8) == [1]
    assert 0.8 * 0.16 < 0.15  # w = w_min, the authors' verl branch, would keep it
