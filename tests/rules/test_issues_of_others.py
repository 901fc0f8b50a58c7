"""What went wrong in other people's code, each as a test of ours. The public report stands first in its docstring.

Below: where codes of the same name part, on the smallest inputs, and what ours gives.
"""

import math
from dataclasses import replace

import pytest
import torch

from minicppo import reference, rules
from minicppo.rl.config import load_config
from tests.rules.strategies import ROLLOUT_LOG_PROB
from tests.rules.twins import gradient, log_response, near

ANY = [name for name, method in rules.METHODS.items() if method.needs == "log_probs"]


def batch_of(ratios: list[list[float]], advantages: list) -> rules.TokenBatch:
    x = torch.tensor(ratios, dtype=torch.float64).log()
    mu = torch.full_like(x, ROLLOUT_LOG_PROB)
    return rules.TokenBatch(mu + x, mu, torch.tensor(advantages, dtype=torch.float64))


@pytest.mark.parametrize("name", ["cppo", "trm-avg-k3", "seq-mask"])
def test_a_masked_response_keeps_its_length(name):
    """TRL 3476: what a method masks changes neither T nor the position weights."""
    batch = batch_of([[40.0] * 4, [1.0] * 4], [1.0, 1.0])
    out = rules.get_method(name)(replace(batch, old_log_probs=batch.log_probs))
    assert not out.token_mask[0].any()
    assert batch.lengths.tolist() == [4, 4]
    assert out.position_weight is None or torch.equal(out.position_weight[0], out.position_weight[1])


def test_one_advantage_a_response_never_becomes_a_square():
    """TRL pull request 6095: (B,) advantages where B = T."""
    batch = batch_of([[1.0] * 3] * 3, [1.0, 2.0, 3.0])
    assert batch.advantages.tolist() == [[1] * 3, [2] * 3, [3] * 3]
    args = (batch.log_probs, batch.ratio, torch.tensor([1.0, 2.0, 3.0]), batch.mask)
    assert rules.policy_loss(*args, loss_agg_mode="seq-mean-token-sum").item() == near(-6)
    mask = rules.cppo_mask(batch.log_probs, batch.rollout_log_probs - 1, torch.tensor([1.0, 0.0, 0.0]))
    assert mask.reason.ne(rules.Reason.TOWARD).any(1).tolist() == [True, False, False]


def test_a_correction_is_never_off_in_silence():
    """verl 4272: our trainer records pi_old by itself; engines that have none refuse (tests/engines too)."""
    from minicppo.engines.refusals import refusals
    from minicppo.engines.verl_settings import verl_methods

    assert load_config("learn", ["method=icepop"]).recomputes_old
    assert "icepop" not in verl_methods()
    for engine in ("trl", "verl"):
        config = load_config("qwen3-8b-base", [f"engine={engine}", "method=cppo", "method.params.correction=tis"])
        assert any("corrects pi_old" in text for text in refusals(config, 8))


def test_a_rejected_response_stays_in_its_groups_mean():
    """verl pull request 6362. Advantages are made before any rejection: they compare with all that mu sampled. Leaving
    out what is rejected later would move the others' baseline by a choice that depends on pi."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    A = rules.group_advantages(rewards, 4).advantages
    batch = batch_of([[1.0], [9.0], [1.0], [1.0]], A.tolist())
    out = rules.get_method("seq-mask")(replace(batch, old_log_probs=batch.log_probs))
    assert out.token_mask[:, 0].tolist() == [True, False, True, True]
    assert A.tolist() == near([0.75, -0.25, -0.25, -0.25])
    assert rules.group_advantages(rewards[out.token_mask[:, 0]], 3).advantages.tolist() == near(
        [2 / 3, -1 / 3, -1 / 3], 1e-6
    )


def test_a_response_is_rejected_whole_under_mixed_signs():
    """slime pull request 1917: off-policy sequence masking takes the sign of the mean advantage, once."""
    batch = batch_of([[math.exp(-1)] * 3], [[-0.5, 0.25, -0.25]])
    out = rules.get_method("opsm", delta=0.1)(batch)
    assert not out.token_mask.any()
    assert out.reason[0].tolist() == [rules.Reason.SEQUENCE] * 3
    flipped = replace(batch, advantages=-batch.advantages)
    assert rules.get_method("opsm", delta=0.1, clip_low=0.99)(flipped).token_mask.all()


@pytest.mark.parametrize("name", ANY)
def test_a_rare_token_gives_no_nan(name):
    """prime-rl pull request 2085: no masked token's extreme ratio and nothing in the padding reaches the gradient."""
    log_mu = torch.tensor([[-90.0, -0.1, -1.0, math.nan], [-0.1, -90.0, -1.0, -math.inf]])
    log_pi = torch.tensor([[-0.1, -90.0, -1.0, math.inf], [-90.0, -0.1, -1.0, math.nan]], requires_grad=True)
    valid = torch.tensor([[True, True, True, False]] * 2)
    for sign in (1.0, -1.0):
        batch = rules.TokenBatch(log_pi, log_mu, torch.tensor([sign, -sign]), valid, old_log_probs=log_pi.detach())
        out = rules.get_method(name)(batch)
        assert torch.isfinite(out.weight).all()
        loss = rules.policy_loss(log_pi, out.weight, batch.advantages, valid, loss_agg_mode="token-mean")
        assert torch.isfinite(torch.autograd.grad(loss, log_pi)[0]).all()


# --- where codes of the same name part, on the smallest inputs -------------------------------------------------------


def gradient_of(name: str, log_mu: list[float], log_pi: list[float], advantage: float, **params: int) -> list[float]:
    """d loss / d log pi of one response under token-mean."""
    mu, pi, A = (torch.tensor([x], dtype=torch.float64) for x in (log_mu, log_pi, advantage))
    batch = rules.TokenBatch(pi, mu, A)
    g = rules.get_method(name, **params)(batch).weight.double()
    return gradient(rules.policy_loss, pi, g, A, batch.mask, loss_agg_mode="token-mean")[0].tolist()


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
    assert gradient_of("gspo", log_mu, log_pi, A) == pytest.approx(wanted, rel=1e-5)


def test_forms_of_the_loss_part_at_extremes():
    """log mu -25, log pi -.5, A -1: the weight is held at e^20 and passes; a clamped ratio passes nothing."""
    assert gradient_of("cppo", [-25.0], [-0.5], -1.0) == pytest.approx([math.exp(20)], rel=1e-6)
    assert gradient_of("cppo-verl", [-25.0], [-0.5], -1.0, length=1) == pytest.approx([20.0])
    x = torch.tensor(-0.5, requires_grad=True)
    (x + 25).clamp(-20, 20).exp().backward()
    assert x.grad.item() == 0


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
