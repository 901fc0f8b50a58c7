"""The C of a log-prob pass on a CPU beside the model's own forward and backward pass: equal to float rounding."""

import math

import pytest
import torch

from minicppo.kernels.native import library
from minicppo.rl import log_probs as module
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from tests.kernels.test_native import ONE_FAST, SHAPES, one_thread  # noqa: F401
from tests.rl.models import model, sharp
from tests.rl.test_log_probs import VOCABULARY, groups

pytestmark = pytest.mark.skipif(library(1, 1, 16) is None, reason="needs a C compiler")


def policy_of(name: str) -> Policy:
    return sharp(model(name, VOCABULARY, **SHAPES[name] | {"max_position_embeddings": 256}), 2.0)


def passed(policy, rollout, needs, weight):
    """Log-probs, entropies and top log-probs of the tokens, and the gradient of every parameter."""
    policy.model.zero_grad()
    found = response_log_probs(policy, rollout, 0.7, needs)
    (found.log_probs * weight)[rollout.response_mask].sum().backward()
    values = [found.log_probs, found.entropy, found.top_log_probs]
    kept = [value[rollout.response_mask].detach() for value in values if value is not None]
    return kept, {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters()}


@pytest.mark.parametrize("name", ONE_FAST)
@pytest.mark.parametrize("needs", ["log_probs", "topk", "full"])
@pytest.mark.parametrize(
    "given", [{}, {"width": 100}, {"sizes": (1, 1, 1), "padded": False}, {"sizes": (5,), "width": 1}]
)
def test_a_pass_is_the_model_s_own(name, needs, given, monkeypatch):
    policy, rollout, used = policy_of(name), groups(**given), []
    weight = torch.randn(rollout.response_mask.shape, generator=torch.Generator().manual_seed(0))

    def spied(*arguments):
        used.append(True)
        return hidden_states(*arguments)

    hidden_states = module.packed.hidden_states
    monkeypatch.setattr(module.packed, "hidden_states", spied)
    ours, our_gradients = passed(policy, rollout, needs, weight)
    assert used
    monkeypatch.setattr(module, "native", lambda model: None)
    plain, gradients = passed(policy, rollout, needs, weight)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-5 * scale, rtol=1e-4, msg=name)


def test_weights_that_are_frozen_have_no_gradient():
    policy, rollout = policy_of("qwen3-untied"), groups()
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("layers.1.self_attn.q" in name)
    response_log_probs(policy, rollout, 1.0).log_probs.sum().backward()
    found = {name for name, parameter in policy.model.named_parameters() if parameter.grad is not None}
    assert found == {f"model.layers.1.self_attn.q_{part}.weight" for part in ("proj", "norm")}


def test_what_is_no_number_stays_none():
    policy, rollout = policy_of("qwen3-untied"), groups()
    with torch.no_grad():
        policy.model.model.layers[0].self_attn.k_proj.weight[3, 5] = math.nan
    assert response_log_probs(policy, rollout, 1.0).log_probs[rollout.response_mask].isnan().all()
