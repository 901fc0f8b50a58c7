"""TRL's loss with our weights is our loss, in value and gradient, for every method and every aggregation."""

from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.engines.trl import LOSS_TYPES, CPPOTrainer
from minicppo.rules import METHODS, get_method
from tests.engines.stale import assert_close, gradients, reference, stale_rollout, tiny_policy
from tests.engines.trl_setup import trainer_of, trl_inputs

MASKING = "ppo gspo dppo dppo-topk pdm trm-max trm-avg cppo cppo-topk cppo-exact cppo-decoupled".split()
QUICK = {"cppo", "cppo-topk", "cppo-exact", "cppo-soft", "cispo"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same policy twice: TRL changes the forward method of the model it is given."""
    return tiny_policy(), trainer_of(tiny_policy(), tmp_path_factory.mktemp("trl"))


def loss_and_gradients(trainer: CPPOTrainer, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.detach(), gradients(trainer.model)


CARRIED = [name for name, method in METHODS.items() if not method.corrects]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CARRIED])
def test_every_method_and_loss_type(name, pair):
    policy, trainer = pair
    trainer.method = get_method(name)
    rollout = stale_rollout(policy, needs=trainer.method.needs)
    for loss_type, mode in LOSS_TYPES.items():
        trainer.loss_type = loss_type
        loss, found = loss_and_gradients(trainer, trl_inputs(rollout))
        wanted_loss, wanted, masked = reference(policy, rollout, trainer.method, mode)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
        assert_close(found, wanted)
        assert name not in MASKING or 0.04 < masked < 1, f"the mask of {name} is idle here: {masked}"


@pytest.mark.parametrize("method", ["grpo", "cppo-topk", "cppo-exact"])  # one for each kind of rollout
def test_training_keeps_mismatch_from_drift(method, tmp_path):
    trainer = trainer_of(
        tiny_policy(), tmp_path, method=method, steps_per_generation=2, max_steps=4, logging_steps=1, seed=3
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert ["reward" in row for row in rows] == [True, False, True, False]
    for fresh, stale in zip(rows[::2], rows[1::2], strict=True):
        assert fresh["mismatch/drift"] < 1e-4
        assert "drift" not in fresh
        assert stale["drift"] > 1e-3
        assert not any(key.startswith(("mismatch/", "clip_ratio/")) for key in stale)
        assert stale["mask/frac"] >= 0
