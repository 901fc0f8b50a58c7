"""The registered losses, through verl's own `ppo_loss` on nested data, against the reference's loops."""

import dataclasses

import pytest
import torch

from minicppo.engines.verl_settings import loss_mode, verl_methods
from minicppo.rules import LOSS_AGG_MODES, get_method
from tests.engines.verl_setup import (
    HORIZON,
    actor_config,
    reference_of,
    sample,
    verl_loss,
    verl_loss_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")
MASKING = "ppo grpo gspo dppo dppo-kl pdm trm-max trm-avg-k3 cppo cppo-kl cppo-fixed cppo-decoupled".split()


def params_of(name: str) -> dict[str, int]:
    return {"length": HORIZON} if get_method(name).params.get("length") == "padded" else {}


@pytest.mark.parametrize("name", verl_methods())
def test_every_method_equals_the_reference(name):
    data, params = sample(), params_of(name)
    wanted, gradients, masked = reference_of(data, get_method(name, **params), "seq-mean-token-sum-norm")
    loss, found, metrics = verl_loss_of(actor_config(name, **params), data, list(range(len(data))))
    assert masked > 0.03 or name not in MASKING, "the mask must be active"
    assert float(loss) == pytest.approx(wanted, abs=1e-5)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5 / HORIZON, rtol=1e-5)
    assert metrics["actor/mask/frac"].aggregate() == pytest.approx(masked, abs=1e-6) or name not in MASKING


@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
def test_micro_batches_and_ranks_add_up(mode):
    """Every aggregation: three micro-batches on each of two ranks, whose gradients verl averages, give one batch's."""
    data, config = sample(), actor_config("cppo", mode)
    wanted, gradients, masked = reference_of(data, get_method("cppo"), mode)
    assert masked > 0.03
    total, found = 0.0, []
    for rows in ([0], [1], [2], [3], [4], [5]):
        loss, parts, _ = verl_loss_of(config, data, rows, ranks=2)
        total += float(loss) / 2
        found += [part / 2 for part in parts]
    assert total == pytest.approx(wanted, abs=1e-5)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-6, rtol=1e-5)


def test_registered_under_names_that_leave_verls_own_alone():
    from verl.trainer.ppo import core_algos

    assert set(verl_loss.LOSS_MODES.values()) >= set(verl_methods())
    assert "cppo" in core_algos.POLICY_LOSS_REGISTRY
    for name in ("cispo", "gspo", "sapo", "vanilla", "dppo_tv"):
        assert core_algos.get_policy_loss_fn(name).__module__ == core_algos.__name__
    for name in verl_methods():
        assert core_algos.get_policy_loss_fn(loss_mode(name)).__module__ == verl_loss.__name__


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_log_prob_raises(value):
    for field in ("log_probs", "rollout"):
        data = sample()
        getattr(data, field)[0][3] = value
        with pytest.raises(ValueError, match=r"\[0, 3\] is .* on a valid token"):
            verl_loss_of(actor_config("cppo"), data, [0, 1])


def test_refusals_of_the_loss():
    data, config = sample(), actor_config("cppo")
    arguments = {
        "old_log_prob": data.rollout[0][None].float(),
        "log_prob": data.log_probs[0][None].float(),
        "advantages": data.advantages[0][None].float(),
        "response_mask": data.masks[0][None],
        "loss_agg_mode": "token-mean",
        "config": config,
    }
    with pytest.raises(ValueError, match=r"bypass_mode=True"):
        verl_loss.method_loss("cppo", **arguments, rollout_is_weights=torch.ones(1, 17))
    with pytest.raises(TypeError, match=r"bfloat16.*flash-attn"):
        verl_loss.method_loss("cppo", **{**arguments, "log_prob": arguments["log_prob"].bfloat16()})
    with pytest.raises(ValueError, match="'token-sum' is unknown"):
        verl_loss.method_loss("cppo", **{**arguments, "loss_agg_mode": "token-sum"})
    with pytest.raises(ValueError, match="over 2 ranks needs the totals"):
        verl_loss_of(config, data, [0, 1], totals=False, ranks=2)
    unscaled = dataclasses.replace(actor_config("cppo"), loss_scale_factor=None)
    with pytest.raises(ValueError, match="needs a horizon"):
        verl_loss_of(unscaled, data, [0, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_mode": "cpo"}, "'cpo' is not ours"),
        ({"loss_mode": "cppo", "params": {"detla": 1}}, "did you mean 'delta'"),
        ({"loss_mode": "cppo", "params": {"delta": -1}}, "outside"),
        ({"loss_mode": "cppo", "params": {"divergence": "topk_tv"}}, "use engine trl"),
        ({"loss_mode": "cppo-verl"}, "width of a micro-batch"),
        ({"loss_mode": "cppo", "params": {"correction": "icepop"}}, "corrects pi_old"),
    ],
)
def test_refusals_of_the_configuration(settings, message):
    with pytest.raises(ValueError, match=message):
        verl_loss.CPPOPolicyLossConfig(**settings)


def test_a_recorded_loss_inspected_masks_what_it_logged(tmp_path):
    from minicppo.inspect import inspect

    config = actor_config("cppo")
    object.__setattr__(config.policy_loss, "record", {"folder": str(tmp_path), "every": 1, "rows": None})
    data = sample()
    _, _, metrics = verl_loss_of(config, data, list(range(len(data))))
    verl_loss.recorder(**config.policy_loss.record).close()
    found = inspect([tmp_path]).report
    assert found["responses"] == len(data)
    assert found["masked"] == pytest.approx(metrics["actor/mask/frac"].aggregate(), abs=1e-6)
