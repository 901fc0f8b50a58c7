"""The registered losses, through verl's own `ppo_loss` on nested data, against the reference's loops."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from minicppo.engines.samples import Sample
from minicppo.engines.verl_settings import loss_mode, verl_methods
from minicppo.rl.policy import save_policy
from minicppo.rules import LOSS_AGG_MODES, get_method
from tests.engines import stale
from tests.engines.sequences import HORIZON, PROMPTS, assert_gradients, reference, sequences
from tests.engines.verl_setup import actor_config, verl_loss, verl_loss_of

pytestmark = pytest.mark.filterwarnings("ignore")
MASKING = "ppo grpo gspo dppo dppo-kl pdm trm-max trm-avg-k3 cppo cppo-kl cppo-fixed cppo-decoupled".split()


def anchored() -> list[Sample]:
    """Sequences whose pi_old is mu, as in verl's bypass mode."""
    return [replace(sample, old_log_probs=sample.rollout_log_probs) for sample in sequences()]


@pytest.mark.parametrize("name", [name for name in verl_methods() if name != "cppo-shuffled"])  # no loop has its order
def test_every_method_equals_the_reference(name):
    params = {"length": HORIZON} if get_method(name).params.get("length") == "padded" else {}
    wanted, gradients, masked = reference(anchored(), name, "seq-mean-token-sum-norm", **params)
    loss, found, metrics = verl_loss_of(actor_config(name, **params), anchored())
    assert masked > 0.03 or name not in MASKING, "the mask must be active"
    assert float(loss) == pytest.approx(wanted, abs=1e-5)
    assert_gradients(found, gradients)
    assert metrics["actor/mask/frac"].aggregate() == pytest.approx(masked, abs=1e-6) or name not in MASKING


@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
def test_micro_batches_and_ranks_add_up(mode):
    """Every aggregation: three micro-batches on each of two ranks, whose gradients verl averages, give one batch's."""
    data, config = anchored(), actor_config("cppo", mode)
    wanted, gradients, _ = reference(data, "cppo", mode)
    parts = [verl_loss_of(config, [sample], data, ranks=2) for sample in data]
    assert sum(float(loss) / 2 for loss, *_ in parts) == pytest.approx(wanted, abs=1e-5)
    assert_gradients([gradient / 2 for _, (gradient,), _ in parts], gradients)


def test_registered_under_names_that_leave_verls_own_alone():
    from verl.trainer.ppo import core_algos

    assert set(verl_loss.LOSS_MODES.values()) >= set(verl_methods())
    assert "cppo" in core_algos.POLICY_LOSS_REGISTRY
    for name in ("cispo", "gspo", "sapo", "vanilla", "dppo_tv"):
        assert core_algos.get_policy_loss_fn(name).__module__ == core_algos.__name__
    for name in verl_methods():
        assert core_algos.get_policy_loss_fn(loss_mode(name)).func is verl_loss.method_loss


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_log_prob_raises(value):
    for name in ("log_probs", "rollout_log_probs"):
        data = sequences()
        getattr(data[0], name).data[PROMPTS[0] + 3] = value
        with pytest.raises(ValueError, match=r"\[0, 3\] is .* on a valid token"):
            verl_loss_of(actor_config("cppo"), data[:2])


def test_refusals_of_the_loss():
    config, row = actor_config("cppo"), torch.full((1, 3), -1.0)
    arguments = {"old_log_prob": row, "log_prob": row, "advantages": row, "response_mask": row.bool()}
    arguments |= {"loss_agg_mode": "token-mean", "config": config}
    with pytest.raises(ValueError, match=r"bypass_mode=True"):
        verl_loss.method_loss("cppo", **arguments, rollout_is_weights=torch.ones(1, 3))
    with pytest.raises(TypeError, match=r"bfloat16.*flash-attn"):
        verl_loss.method_loss("cppo", **{**arguments, "log_prob": row.bfloat16()})
    with pytest.raises(ValueError, match="'token-sum' is unknown"):
        verl_loss.method_loss("cppo", **{**arguments, "loss_agg_mode": "token-sum"})
    with pytest.raises(ValueError, match="over 2 ranks needs the totals"):
        verl_loss_of(config, sequences()[:2], [], ranks=2)
    unscaled = replace(actor_config("cppo"), loss_scale_factor=None)
    with pytest.raises(ValueError, match="needs a horizon"):
        verl_loss_of(unscaled, sequences()[:2])


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
    data = sequences()
    _, _, metrics = verl_loss_of(config, data)
    verl_loss.recorder(**config.policy_loss.record).close()
    found = inspect([tmp_path]).report
    assert found["responses"] == len(data)
    assert found["masked"] == pytest.approx(metrics["actor/mask/frac"].aggregate(), abs=1e-6)


@pytest.mark.slow
def test_every_number_of_ranks_takes_the_step_of_the_reference(tmp_path):
    """verl's FSDP2 engine on one gloo rank and on two, against our own loss."""
    policy, mode, params = stale.tiny_policy(), "seq-mean-token-sum-norm", {"delta": 0.05, "delta_b": 0.005}
    rollout, advantages = stale.stale_rollout(policy, rows=8), stale.ADVANTAGES.repeat(2)
    loss, wanted, masked = stale.reference(policy, rollout, get_method("cppo", **params), mode, advantages)
    assert 0.03 < masked < 0.97, "the mask must be active"
    save_policy(policy, tmp_path / "policy")
    for ranks in (1, 2):
        worker = str(stale.ROOT / "tests/engines/verl_worker.py")
        stale.torchrun(ranks, worker, str(tmp_path), mode, json.dumps(params))
        metrics = json.loads((tmp_path / f"{ranks}.json").read_text())
        assert metrics["sharded"] == metrics["parameters"]
        assert metrics["actor/pg_loss"] == pytest.approx(float(loss), abs=1e-5)
        stale.assert_close(load_file(tmp_path / f"{ranks}.safetensors"), wanted)
