"""Evaluating, saving and what a trainer sets up, as people who use TRL every day do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.engines.trl import CPPOTrainer
from tests.engines.stale import gradients, stale_rollout, tiny_policy
from tests.engines.trl_setup import trainer_of, trl_inputs

EVALUATED: dict[str, Any] = {
    "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4, "logging_steps": 2, "max_steps": 4,
    "save_strategy": "steps", "save_steps": 2,
}  # fmt: skip


def evaluating(folder: Path, **settings: Any) -> CPPOTrainer:
    return trainer_of(tiny_policy(), folder, **EVALUATED, **settings)


def test_evaluating_before_training_and_beside_it(tmp_path):
    trainer = evaluating(tmp_path, steps_per_generation=2)
    found = trainer.evaluate()
    assert found["eval_mismatch/drift"] < 1e-4, "the policy is the one that sampled"
    trainer.train()
    for row in trainer.state.log_history:
        if "eval_loss" in row:
            assert row["eval_mismatch/drift"] < 1e-4
            assert "eval_drift" not in row
        elif "grad_norm" in row:  # two updates with one rollout, between them an evaluation that takes no row of theirs
            assert {"drift", "mismatch/drift"} <= row.keys()
    card = (tmp_path / "README.md").read_text()
    assert "2606.10968" in card
    assert "2402.03300" not in card, "GRPO's paper"


def test_a_run_saved_where_it_evaluates_resumes_to_the_bit(tmp_path):
    whole, again = (evaluating(tmp_path / name, shuffle_dataset=False) for name in ("whole", "again"))
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_dropout_that_is_a_number_is_off(tmp_path):
    policy, inputs = tiny_policy(), trl_inputs(stale_rollout(tiny_policy()))
    for layer in policy.model.model.layers:
        layer.self_attn.attention_dropout = 0.5  # as a configuration sets it
    found = []
    for trainer in (trainer_of(policy, tmp_path), trainer_of(tiny_policy(), tmp_path)):
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        trainer._compute_loss(trainer.model, dict(inputs)).backward()
        found.append(gradients(trainer.model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[1])


def test_virtual_tokens_are_refused(tmp_path):
    policy = tiny_policy()
    policy.model.peft_config = {"default": SimpleNamespace(is_prompt_learning=True)}
    with pytest.raises(ValueError, match="virtual tokens before each prompt"):
        trainer_of(policy, tmp_path)
