"""TRL's loss with our weights is our loss, in value and gradient, for every method and every aggregation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.engines.trl import LOSS_TYPES, CPPOTrainer
from minicppo.reference import LOOPS, Response
from minicppo.reference import policy_loss as loop_loss
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rules import METHODS, get_method
from tests.engines.trl_setup import (
    ADVANTAGES,
    TEMPERATURE,
    assert_close,
    gradients,
    reference,
    stale_rollout,
    tiny_policy,
    trainer_of,
    trl_inputs,
)

IDLE = {"reinforce", "none", "cispo", "cispo-verl", "minpro", "sapo", "drpo", "spo"}  # no mask: a weight alone
IDLE |= {"cppo-soft", "cppo-soft-sigmoid", "cppo-budget-gate"}  # gates
QUICK = {"cppo", "cppo-topk", "cppo-exact", "cppo-soft", "cispo"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, CPPOTrainer]:
    """The same policy twice: TRL changes the forward method of the model it is given."""
    return tiny_policy(), trainer_of(tiny_policy(), tmp_path_factory.mktemp("trl"))


def loss_and_gradients(trainer: CPPOTrainer, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.detach(), gradients(trainer.model)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]
)
def test_every_method_and_loss_type(name: str, bench: tuple[Policy, CPPOTrainer]) -> None:
    policy, trainer = bench
    method = get_method(name)
    trainer.method = method
    rollout = stale_rollout(policy, needs=method.needs)
    for loss_type in LOSS_TYPES:
        trainer.loss_type = loss_type
        loss, found = loss_and_gradients(trainer, trl_inputs(rollout))
        wanted_loss, wanted, masked = reference(policy, rollout, method, loss_type)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-6)
        assert_close(found, wanted)
        assert name in IDLE or 0.04 < masked < 1, f"the mask of {name} is idle here: {masked}"


def test_cppo_is_the_loop_of_algorithm_1(bench: tuple[Policy, CPPOTrainer]) -> None:
    policy, trainer = bench
    trainer.method, trainer.loss_type = get_method("cppo", delta=0.05), "grpo"
    rollout = stale_rollout(policy)
    loss, _ = loss_and_gradients(trainer, trl_inputs(rollout))
    pi = response_log_probs(policy, rollout, TEMPERATURE).log_probs.detach().exp()
    weights, advantages = [], []
    for row, length in enumerate(rollout.response_mask.sum(1).tolist()):
        mu_row, pi_row = (x[row, :length].tolist() for x in (rollout.log_probs.exp(), pi))
        advantages.append([float(ADVANTAGES[row])] * length)
        weights.append(LOOPS["cppo"](Response(mu_row, pi_row, advantages[-1]), delta=0.05, delta_b=0.02))
    wanted = loop_loss(weights, advantages, "seq-mean-token-mean")
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
