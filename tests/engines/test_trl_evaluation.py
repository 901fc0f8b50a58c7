"""Evaluating, saving and what a trainer sets up, as people who use TRL every day do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.engines.trl import CPPOTrainer
from tests.engines.stale import tiny_policy
from tests.engines.trl_setup import PROBLEMS, config, feature, no_reward, refused, trainer_of

pytestmark = pytest.mark.slow
EVALUATED: dict[str, Any] = {
    "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4, "logging_steps": 2, "max_steps": 4,
    "save_strategy": "steps", "save_steps": 2,
}  # fmt: skip


def evaluating(folder: Path, **settings: Any) -> CPPOTrainer:
    return trainer_of(tiny_policy(), folder, eval_dataset=PROBLEMS, **EVALUATED, **settings)


@feature("`evaluate()` before `train()`, `eval_steps`: logged apart, all mismatch", "works")
@feature("a model card that names CPPO and its paper", "works")
@feature("resuming where the run also evaluates, in a later epoch, shuffled: to the bit", "works")
def test_evaluating_before_training_and_beside_it(tmp_path):
    trainer, again = (evaluating(tmp_path / name, steps_per_generation=2) for name in ("whole", "again"))
    found = trainer.evaluate()
    assert found["eval_mismatch/drift"] < 1e-4, "the policy is the one that sampled"
    trainer.train()
    for row in trainer.state.log_history:
        if "eval_loss" in row:
            assert row["eval_mismatch/drift"] < 1e-4
            assert "eval_drift" not in row
        elif "grad_norm" in row:  # two updates with one rollout, between them an evaluation that takes no row of theirs
            assert {"drift", "mismatch/drift"} <= row.keys()
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "2606.10968" in card
    assert "2402.03300" not in card, "GRPO's paper"
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for a, b in zip(trainer.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


VIRTUAL = [
    refused("prompt tuning", "PromptTuningConfig"),
    refused("prefix tuning", "PrefixTuningConfig"),
    refused("P-tuning", "PromptEncoderConfig"),
]


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_refused(kind, tmp_path):
    peft = pytest.importorskip("peft", reason="adapters need peft (pip install -e '.[dev]')")
    adapter = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ValueError, match="virtual tokens before its padding"):
        trainer_of(tiny_policy(), tmp_path, peft_config=adapter)


@feature("`eval_on_start`", "works")
@feature("`num_generations_eval`, several evaluation sets", "works")
@feature("`load_best_model_at_end`", "works")
def test_other_ways_of_evaluating(tmp_path):
    trainer = evaluating(
        tmp_path, eval_on_start=True, num_generations_eval=1, load_best_model_at_end=True,
        metric_for_best_model="eval_a_loss", greater_is_better=True,
    )  # fmt: skip
    trainer.eval_dataset = {"a": trainer.eval_dataset, "b": trainer.eval_dataset}
    trainer.train()
    rows = [row for row in trainer.state.log_history if any(key.startswith("eval_a_") for key in row)]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert trainer.state.best_metric == min(row["eval_a_loss"] for row in rows[1:])


@feature("arguments in `GRPOTrainer`'s order, and none but model, rewards and data", "works")
@feature("`optimizers`, `callbacks`, `logging_steps`, `log_completions`", "works")
@feature("`use_adaptive_entropy`", "works")
@feature("bfloat16 (`bf16=True`, the default)", "works")
def test_arguments_as_in_grpo_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)  # without use_cpu
    policy, stepped = tiny_policy(), []
    policy.model.config.name_or_path = "someone/small"
    alone = CPPOTrainer(policy.model, no_reward, train_dataset=PROBLEMS, processing_class=policy.tokenizer)
    assert (alone.args.output_dir, alone.method.name) == ("small-CPPO", "cppo")

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            stepped.append(state.global_step)

    policy = tiny_policy()
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
    trainer = CPPOTrainer(
        policy.model, [no_reward],
        config(tmp_path, max_steps=2, logging_steps=2, log_completions=True, bf16=True, use_adaptive_entropy=True),
        PROBLEMS, None, policy.tokenizer, None, [Watch()], (optimizer, None),
    )  # fmt: skip
    trainer.train()
    assert stepped == [1, 2]
    assert trainer.optimizer.optimizer is optimizer
    assert 1e-5 < trainer.state.log_history[0]["mismatch/drift"] < 0.1
    assert (tmp_path / "completions" / "completions_00002.parquet").exists()
