"""Sampler and scorer agree for every model that loads, or the run stops at its first batch."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from transformers import CONFIG_MAPPING, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from experiments.architectures import DECODERS, tiny_policy
from minicppo.rl import trainer
from minicppo.rl.evaluate import evaluate
from minicppo.rl.lm_head import linear_head
from minicppo.rl.log_probs import require_agreement, response_log_probs
from minicppo.rl.policy import build_policy
from minicppo.rl.sampling import sample
from tests.rl.conftest import slow_but
from tests.rl.models import build, model
from tests.rl.test_decoding import PROMPTS

QUICK = ("bloom", "cohere2", "gemma2", "granite", "lfm2", "nanochat", "qwen3_moe")
BROKEN = {
    "scaled": lambda states: 0.9 * states,
    "one row": lambda states: torch.cat([states[:1] * 0.8, states[1:]]),
    "one position": lambda states: torch.cat([states[:, :-1], states[:, -1:] * 0.5], 1),
    "no number": lambda states: states * torch.nan,
}


def rollout_of(policy):
    return sample(policy, PROMPTS, 12, 1.0, torch.Generator().manual_seed(0), samples=2)


def broken(policy, how):
    """Its passes over whole rows are off from those over a cache."""
    call = policy.model.base_model.forward

    def forward(*args, **kwargs):
        output = call(*args, **kwargs)
        if not kwargs.get("use_cache"):
            output.last_hidden_state = how(output.last_hidden_state)
        return output

    policy.model.base_model.forward = forward
    return policy


@pytest.mark.parametrize("name", slow_but(QUICK, DECODERS))
def test_the_gap_of_an_architecture_is_rounding(name):
    if name not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {name}")
    policy = tiny_policy(name)
    rollout, state = rollout_of(policy), torch.get_rng_state()
    gap = response_log_probs(policy, rollout, 1.0).log_probs.detach() - rollout.log_probs
    assert float(gap[rollout.response_mask].abs().max()) <= 1e-4
    require_agreement(policy, policy, rollout, 1.0)
    assert torch.equal(state, torch.get_rng_state()), "no random number is drawn"


def test_there_are_sixty_of_them():
    assert len(set(DECODERS)) >= 60


@pytest.mark.parametrize("scale", [0.1, 1.0, 1.01, -1.0])
def test_what_scales_states_before_the_head_is_seen(scale):
    class Scaled(LlamaForCausalLM):  # as MiniCPM3 does
        def forward(self, input_ids=None, logits_to_keep=0, **kwargs):
            states = self.model(input_ids, **kwargs).last_hidden_state
            return CausalLMOutputWithPast(logits=self.lm_head(states * scale))

    made = Scaled(model("llama-grouped").config)
    with torch.no_grad():
        made.get_input_embeddings().weight[:4] = 0
    assert (linear_head(made) is None) == (scale != 1)


@pytest.mark.parametrize("how", [*BROKEN, "trocr", "whisper"])
def test_a_model_that_is_broken_or_counts_positions_otherwise_at_each_step_is_stopped(how):
    policy = broken(build("gpt2"), BROKEN[how]) if how in BROKEN else tiny_policy(how)
    name = type(policy.model).__name__
    with pytest.raises(ValueError, match=rf"sampler and scorer disagree on {name}: .* differ by .* Way out: "):
        require_agreement(policy, policy, rollout_of(policy), 1.0)


def test_bfloat16_has_a_bound_of_its_own():
    policy = build("qwen3-grouped-tied")
    lower = dataclasses.replace(policy, autocast=torch.bfloat16)
    rollout = rollout_of(lower)
    require_agreement(policy, lower, rollout, 1.0)
    with pytest.raises(ValueError, match="disagree"):
        require_agreement(lower, lower, dataclasses.replace(rollout, log_probs=rollout.log_probs - 0.4), 1.0)


def test_an_evaluation_and_a_run_stop_at_the_first_batch(small_config, tmp_path, monkeypatch):
    config = small_config(warmup=None)
    policy = broken(build_policy(config.model, config.make_task(), 0), BROKEN["scaled"])
    with pytest.raises(ValueError, match="sampler and scorer disagree"):
        evaluate(policy, config.make_task(), config)

    def compares_what_is_scored_anyway(scorer, sampler, rollout, temperature, log_probs):
        assert log_probs.shape == rollout.log_probs.shape
        require_agreement(scorer, sampler, rollout, temperature, log_probs)

    monkeypatch.setattr(trainer, "initial_policy", lambda *args: policy)
    monkeypatch.setattr(trainer, "require_agreement", compares_what_is_scored_anyway)
    monkeypatch.setattr(trainer, "evaluate", lambda *args: SimpleNamespace(as_row=dict))
    with pytest.raises(ValueError, match="sampler and scorer disagree"):
        trainer.train(config, tmp_path / "run")
