"""What went wrong in other people's code, each as a test of ours. The public report stands first in its docstring."""

import math
from dataclasses import replace

import pytest
import torch

from minicppo import rules
from minicppo.rl.config import load_config
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import build_policy
from minicppo.rl.sampling import sample
from minicppo.rl.sections import ModelConfig
from minicppo.rl.tasks import make_task
from tests.rules.strategies import ROLLOUT_LOG_PROB
from tests.rules.twins import log_response, near

ANY = [name for name, method in rules.METHODS.items() if method.needs == "log_probs"]


def batch_of(ratios: list[list[float]], advantages: list, valid: list | None = None) -> rules.TokenBatch:
    x = torch.tensor(ratios, dtype=torch.float64).log()
    mask = None if valid is None else torch.tensor(valid).bool()
    mu = torch.full_like(x, ROLLOUT_LOG_PROB)
    return rules.TokenBatch(mu + x, mu, torch.tensor(advantages, dtype=torch.float64), mask)


def gradient(batch: rules.TokenBatch, g: torch.Tensor, parts: list[list[int]], **options) -> torch.Tensor:
    """Of the loss, one part of the rows after the other, with the whole step's totals."""
    x = batch.log_probs.clone().requires_grad_()
    totals = {"total_tokens": int(batch.mask.sum()), "total_sequences": len(x)}
    for rows in parts:
        rules.policy_loss(x[rows], g[rows], batch.advantages[rows], batch.mask[rows], **totals, **options).backward()
    return x.grad


RAGGED = batch_of([[1.1, 1, 1], [0.9, 1.2, 1]], [1.0, -1.0], [[1, 0, 0], [1, 1, 1]])


def test_a_sequence_ratio_is_a_mean_not_a_sum():
    """TRL 5814."""
    out = rules.get_method("gspo", clip_high=1.0)(batch_of([[1.2] * 5], [1.0]))
    assert out.weight[0].tolist() == near([1.2] * 5, 1e-6)


def test_each_update_has_its_own_denominator():
    """TRL pull request 6024: several updates of one rollout, each over its own minibatch, however it is accumulated."""
    options = {"loss_agg_mode": "seq-mean-token-sum-norm", "horizon": 3}
    whole = gradient(RAGGED, RAGGED.ratio.float(), [[0, 1]], **options)
    assert torch.equal(whole, gradient(RAGGED, RAGGED.ratio.float(), [[1], [0]], **options))
    alone = rules.policy_loss(RAGGED.log_probs[:1], RAGGED.ratio[:1], RAGGED.advantages[:1], RAGGED.mask[:1], **options)
    assert alone.item() == near(-1.1 / 3)  # an update with one response divides by one, not by the rollout's two


def test_what_the_response_mask_leaves_out_is_in_no_denominator():
    """TRL 6369: tokens of responses that were cut off, taken out of the mask."""
    valid = torch.tensor([[True, True], [False, False]])
    assert rules.aggregate(torch.tensor([[1.0, 3.0], [9.0, 9.0]]), valid, "token-mean").item() == 2


@pytest.mark.parametrize("name", ["cppo", "trm-avg-k3", "seq-mask"])
def test_a_masked_response_keeps_its_length(name):
    """TRL 3476: what a method masks changes neither T nor the position weights."""
    batch = batch_of([[40.0] * 4, [1.0] * 4], [1.0, 1.0])
    out = rules.get_method(name)(replace(batch, old_log_probs=batch.log_probs))
    assert not out.token_mask[0].any()
    assert batch.lengths.tolist() == [4, 4]
    assert out.position_weight is None or torch.equal(out.position_weight[0], out.position_weight[1])


@pytest.mark.parametrize("field", ["log_probs", "rollout_log_probs", "old_log_probs"])
def test_a_log_prob_that_is_none_stops_the_step(field):
    """TRL 6166 and pull request 6693: NaN or nothing where a sampler could not score a token."""
    given = log_response([0.5, 0.5], [0.5, 0.5])
    wrong = torch.tensor([[-0.7, math.nan]], dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{field}\[0, 1\] is nan on a valid token"):
        rules.TokenBatch(**{**given, field: wrong})
    rules.TokenBatch(**{**given, field: wrong}, response_mask=torch.tensor([[True, False]]))  # where it does not count
    with pytest.raises(TypeError, match=field):
        rules.TokenBatch(**{**given, field: [[-0.7, None]]})


def test_one_advantage_a_response_never_becomes_a_square():
    """TRL pull request 6095: (B,) advantages where B = T."""
    batch = batch_of([[1.0] * 3] * 3, [1.0, 2.0, 3.0])
    assert batch.advantages.tolist() == [[1] * 3, [2] * 3, [3] * 3]
    args = (batch.log_probs, batch.ratio, torch.tensor([1.0, 2.0, 3.0]), batch.mask)
    assert rules.policy_loss(*args, loss_agg_mode="seq-mean-token-sum").item() == near(-6)
    mask = rules.cppo_mask(batch.log_probs, batch.rollout_log_probs - 1, torch.tensor([1.0, 0.0, 0.0]))
    assert mask.reason.ne(rules.Reason.TOWARD).any(1).tolist() == [True, False, False]


def test_a_product_of_ratios_is_the_exp_of_the_sum():
    """unsloth-zoo pull request 870: not the sum of the exps."""
    batch = batch_of([[4.0, 0.25]], [1.0])
    assert rules.get_method("vespo")(batch).weight[0].tolist() == near([1, 1], 1e-6)
    mismatch = replace(batch, old_log_probs=batch.log_probs)
    assert rules.get_method("reinforce", correction="seq-tis")(mismatch).weight[0].tolist() == near([1, 1], 1e-6)


@pytest.mark.parametrize("mode", rules.LOSS_AGG_MODES)
def test_the_gradient_does_not_depend_on_the_split(mode):
    """verl 5625 (token-mean) and verl 3741 (Dr. GRPO's sum over the micro-batch's size)."""
    g, options = RAGGED.ratio.float(), {"loss_agg_mode": mode, "horizon": 3}
    assert torch.equal(gradient(RAGGED, g, [[0, 1]], **options), gradient(RAGGED, g, [[0], [1]], **options))


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


def test_a_shift_by_one_token_shows():
    """ms-swift pull request 8196: right after a rollout pi is mu, token by token; shifted by one it is not."""
    task = make_task("chain", steps=1)
    policy = build_policy(ModelConfig(hidden_size=16, intermediate_size=32, layers=1, heads=2), task, seed=0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(3.0)
    generator = torch.Generator().manual_seed(0)
    rollout = sample(policy, [policy.encode("3+5=")], 8, 1.0, generator, samples=8)
    pi = response_log_probs(policy, rollout, 1.0).log_probs.detach()
    both = rollout.response_mask & rollout.response_mask.roll(-1, 1)
    assert (pi - rollout.log_probs)[rollout.response_mask].abs().max() < 1e-4
    assert (pi.roll(-1, 1) - rollout.log_probs)[both].abs().mean() > 0.1


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


@pytest.mark.parametrize("name", ["clip_ratio_c", "cliprange", "eps"])
def test_a_misspelt_hyper_parameter_is_refused(name):
    """RLinf 316: `clip_ratio_c` was swallowed by **kwargs, and the dual clip stayed off."""
    for method in ("grpo", "grpo-dual", "gspo", "tis"):
        with pytest.raises(ValueError, match=f"has no hyper-parameter '{name}'.*clip_"):
            rules.get_method(method, **{name: 3.0})
    with pytest.raises(ValueError, match="no hyper-parameter"):
        load_config("learn", ["method=grpo", f"method.params.{name}=3"])
