"""Our methods beside TRL's own loss on the same numbers: `_compute_loss` of its trainer, fed through a stub."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from minicppo import rules
from tests.peers import ragged, tokens_of_gradient

trl = pytest.importorskip("trl.trainer.grpo_trainer")

DEFAULTS: dict[str, Any] = {
    "aux_loss_enabled": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "beta": 0.0,
    "importance_sampling_level": "token", "loss_type": "bnpo", "epsilon_low": 0.2, "epsilon_high": 0.28,
    "use_vllm": True, "vllm_importance_sampling_correction": True, "max_completion_length": 24,
    "current_gradient_accumulation_steps": 1, "_entropy_bonus_enabled": False,
}  # fmt: skip
MODES = {"bnpo": "token-mean", "luspo": "seq-mean-token-sum", "grpo": "seq-mean-token-mean"}


def gradient(
    batch: rules.TokenBatch, is_ratio: torch.Tensor, delta: float | None = None, **changes: Any
) -> torch.Tensor:
    """d loss / d log pi of TRL's loss, with what its generation step would have computed of the mismatch."""
    settings = DEFAULTS | changes
    x = batch.log_probs.clone().requires_grad_()
    trainer = mock.MagicMock(spec=[*settings, "args", "model", "accelerator", "_metrics", *vars(trl.GRPOTrainer)])
    for name, value in settings.items():
        setattr(trainer, name, value)
    vespo = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    trainer.args = SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1, **vespo)
    trainer.accelerator.num_processes = 1
    trainer.accelerator.gather = lambda value: value
    trainer._get_per_token_logps_and_entropies.return_value = (x, torch.zeros_like(x), None)
    for name in ("get_off_policy_mask", "get_gamma_weights"):
        setattr(trainer, name, getattr(trl.GRPOTrainer, name))
    mask = batch.mask.long()
    inputs = {
        "prompt_ids": mask[:, :1], "prompt_mask": mask[:, :1], "completion_ids": mask, "completion_mask": mask,
        "advantages": batch.advantages[:, 0], "num_items_in_batch": mask.sum(), "importance_sampling_ratio": is_ratio,
        "old_per_token_logps": batch.old_log_probs, "sampling_per_token_logps": batch.rollout_log_probs,
    }  # fmt: skip
    loss = trl.GRPOTrainer._compute_loss(trainer, mock.MagicMock(), inputs)
    (found,) = torch.autograd.grad(loss, x)
    return found


CLIPS = {"grpo": {}, "grpo-dual": {"delta": 3.0}}
LUSPO = {"loss_type": "luspo", "epsilon_low": 2e-3, "epsilon_high": 2.5e-3, "importance_sampling_level": "sequence"}
GSPO = {"loss_type": "grpo", "epsilon_low": 3e-4, "epsilon_high": 4e-4, "importance_sampling_level": "sequence"}
CASES = [  # a method and its parameters, TRL's settings, and its correction of log(pi_old / mu), None for none
    *((name, {}, settings, None) for name, settings in {**CLIPS, "luspo": LUSPO, "gspo": GSPO}.items()),
    *((name, {"correction": "tis"}, settings, lambda s: s.exp().clamp(max=2.0)) for name, settings in CLIPS.items()),
    ("seq-mask", {}, {}, lambda s: whole(s).masked_fill(whole(s) > 3.0, 0.0)),  # TRL's default, sequence_mask
    ("seq-tis", {}, {}, lambda s: whole(s).clamp(max=2.0)),
    ("icepop", {}, {}, lambda s: s.exp().masked_fill((s.exp() > 2.0) | (s.exp() < 0.5), 0.0)),  # TRL's token_mask
    ("vespo", {}, {"loss_type": "vespo"}, torch.exp),
]


def whole(log_mismatch: torch.Tensor) -> torch.Tensor:
    return log_mismatch.sum(1, keepdim=True).exp()


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5])
@pytest.mark.parametrize(("name", "params", "settings", "correction"), CASES)
def test_the_gradient_is_trl_s(name, params, settings, correction, scale):
    batch, ratio = ragged(scale), torch.ones_like(ragged(scale).log_probs)
    if correction:
        ours, ratio = batch, correction(batch.log_mismatch)
    else:
        ours = batch.since_old
    mode = MODES.get(settings.get("loss_type", "bnpo"), "token-mean")
    found = tokens_of_gradient(batch, rules.get_method(name, **params)(ours), mode)
    torch.testing.assert_close(found, gradient(batch, ratio, **settings), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("delta", [1e-3, 0.05])
def test_off_policy_sequence_masking(scale, delta):
    """With pi_old = mu; else TRL's mask sees mu and its clip pi_old, which ours does not part."""
    batch = ragged(scale)
    batch = replace(batch, old_log_probs=batch.rollout_log_probs)
    theirs = gradient(batch, torch.ones_like(batch.log_probs), off_policy_mask_threshold=delta)
    found = tokens_of_gradient(batch, rules.get_method("opsm", delta=delta)(batch), "token-mean")
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-7)
