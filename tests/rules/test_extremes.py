"""Rules at extremes: the smallest inputs on which codes of the same name part, and what ours gives."""

import math

import pytest
import torch

from minicppo import reference, rules
from tests.rules.strategies import Token, tight
from tests.rules.twins import log_response, loop_divergence, near, token_batch


def gradient(method: str, log_mu: list[float], log_pi: list[float], A: float, valid=None, **params) -> list[float]:
    """d loss / d log pi of one response under token-mean."""
    mu, pi = (torch.tensor([x], dtype=torch.float64) for x in (log_mu, log_pi))
    batch = rules.TokenBatch(pi, mu, torch.tensor([A], dtype=torch.float64), valid)
    x = pi.requires_grad_()
    g = rules.get_method(method, **params)(batch).weight.double()
    rules.policy_loss(x, g, batch.advantages, batch.mask, loss_agg_mode="token-mean").backward()
    return x.grad[0].tolist()


@pytest.mark.parametrize(("name", "g"), [("ppo", 4.0), ("grpo", 4.0), ("grpo-dual", 0.0)])
def test_dual_clip(name, g):
    """A < 0 and a ratio above c: verl's and TRL's clip, off in ours unless it is asked for."""
    method = rules.get_method(name)
    assert method(rules.TokenBatch(**log_response([0.1], [0.4], -1.0))).weight.item() == near(g, 1e-6)
    assert reference.LOOPS["ppo"](reference.Response([0.1], [0.4], [-1.0]), **method.params) == near([g])
    assert method(rules.TokenBatch(**log_response([0.1], [0.12], 1.0))).weight.item() == near(1.2, 1e-6)
    assert rules.get_method("gspo", clip_c=3.0)(rules.TokenBatch(**log_response([0.1], [0.4], -1.0))).weight.item() == 0


def test_the_verl_branch_caps_the_ratio():
    batch = rules.TokenBatch(**log_response([0.001], [0.05]))
    assert rules.get_method("cppo-verl", length=1)(batch).weight.item() == near(20, 1e-5)
    assert rules.get_method("cppo")(batch).weight.item() == near(50, 1e-4)


def test_the_verl_branch_counts_masked_positions():
    """pi (.5, .9, .68), mu (.5, .2, .5), the middle one masked: our third token has weight .9, the branch's .8."""
    valid = torch.tensor([[True, False, True]])
    inputs = log_response([0.5, 0.2, 0.5], [0.5, 0.9, 0.68])
    mask = rules.cppo_mask(**inputs, response_mask=valid, length="padded", cap_factor=5.0)
    assert mask.position_weight[0].tolist() == near([1, 0, 0.9])
    assert mask.token_mask[0].tolist() == [True, False, False]  # .9 * .18 > .15
    slots = reference.linear_weights(3, 0.8)
    assert slots[2] * 0.18 < 0.15  # and the branch keeps it


@pytest.mark.parametrize(
    ("log_pi", "log_mu", "A", "wanted"),
    [
        ([-30.1, -0.1], [-0.1, -30.0], -1.0, [0.0, 0.0]),  # s = .951 is beyond the clip; summands held: 1, kept
        ([-26.0, -0.5, -0.5, -0.5], [-1.0, -0.5, -0.5, -0.5], 1.0, [-math.exp(-6.25) / 4] * 4),
        ([-0.5] * 2, [-90.0] * 2, -1.0, [math.exp(20) / 2] * 2),  # the mean itself is held
    ],
)
def test_gspo_holds_the_mean_not_its_summands(log_pi, log_mu, A, wanted):
    assert gradient("gspo", log_mu, log_pi, A) == pytest.approx(wanted, rel=1e-5)


def test_replace_last_sees_a_tenth():
    token = Token((0.4, 0.3, 0.2, 0.1), (0.4, 0.1, 0.38, 0.12), 3, 1.0)
    batch = token_batch(((token,),), tight([1]), "topk", k=2)
    for variant, D, kept in (("union", 0.2, False), ("replace_last", 0.02, True)):
        assert loop_divergence("topk_tv", (token,), 2, variant)[0] == near(D)
        out = rules.get_method("dppo-topk", topk_variant=variant)(batch)
        assert out.divergence.item() == near(D)
        assert out.token_mask.item() is kept


def test_forms_of_the_loss_part_at_extremes():
    """log mu -25, log pi -.5, A -1: the weight is held at e^20 and passes; a clamped ratio passes nothing."""
    assert gradient("cppo", [-25.0], [-0.5], -1.0) == pytest.approx([math.exp(20)], rel=1e-6)
    assert gradient("cppo-verl", [-25.0], [-0.5], -1.0, length=1) == pytest.approx([20.0])
    x = torch.tensor(-0.5, requires_grad=True)
    (x + 25).clamp(-20, 20).exp().backward()
    assert x.grad.item() == 0


@pytest.mark.parametrize(("mode", "counted", "left_out"), [
    ("seq-mean-token-mean", 0.5, 1.0), ("seq-mean-token-sum", 1.5, 3.0), ("seq-mean-token-sum-norm", 0.25, 0.5),
    ("token-mean", 1.0, 1.0),
])  # fmt: skip
def test_responses_without_a_token(mode, counted, left_out):
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


def test_a_fork_that_is_not_cppo():
    """Its threshold shrinks with the mean drift of the prefix, and it masks tokens that move back toward mu."""

    def fork(D: list[float], delta: float, budget: float) -> list[bool]:
        means = [sum(D[:t]) / t if t else 0.0 for t in range(len(D))]
        return [d <= delta * (1 - mean / budget) for d, mean in zip(D, means, strict=True)]

    limits = {"delta": 0.15, "delta_b": 0.02, "w_min": 0.8}
    for D, away, theirs, ours in (
        ([0.02, 0.14], [True, True], [True, False], [True, True]),  # a prefix on its budget leaves the fork nothing
        ([0.2], [False], [False], [True]),  # back toward mu
    ):
        assert fork(D, 0.15, 0.02) == theirs
        assert reference.cppo_token_mask(D, away, **limits) == ours
