"""The log-prob pass: whatever the model, the padding and the passes, each row counts as it would alone."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minicppo.rl import log_probs as module
from minicppo.rl.lm_head import LogProbs, linear_head
from minicppo.rl.log_probs import hidden_states, response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Rollout
from minicppo.rl.sampling import sample
from tests.rl.conftest import slow_but
from tests.rl.models import RECURRENT, SHAPED, model, sharp
from tests.rl.test_lm_head import assert_near

VOCABULARY = 61
LINEAR = ["llama-grouped", "llama-tied", "qwen3-grouped-tied", "gpt2", "mistral-window"]


@pytest.fixture
def tiled(monkeypatch):
    """No logits are small enough to be made whole."""
    monkeypatch.setattr(module, "default_tile", lambda device: (8, 16))
    monkeypatch.setattr("minicppo.rl.lm_head.default_tile", lambda device: (8, 16))


@pytest.fixture
def set_cost(monkeypatch):
    """`set_cost(100)`: one more pass costs as much as a hundred tokens. 0: many passes; inf: one."""
    return lambda tokens: monkeypatch.setattr(module, "pass_tokens", lambda model: tokens)


def policy_of(name: str, factor: float = 4.0) -> Policy:
    return sharp(model(name, VOCABULARY), factor)


def groups(sizes: Sequence[int] = (3, 1, 4), width: int = 7, padded: bool = True) -> Rollout:
    """A rollout in groups of these sizes: prompts of up to 9 tokens, responses of up to `width`, 4 top tokens each."""
    rng, repeats = torch.Generator().manual_seed(0), torch.tensor(sizes)
    lengths = torch.randint(3, 10, (len(sizes),), generator=rng) if padded else torch.full((len(sizes),), 9)
    lengths[0] = 9
    prompt_mask = (torch.arange(9) >= 9 - lengths[:, None]).repeat_interleave(repeats, 0)
    prompts = torch.randint(2, VOCABULARY, (len(sizes), 9), generator=rng).repeat_interleave(repeats, 0)
    n = len(prompts)
    ends = torch.randint(1, width + 1, (n,), generator=rng)
    ends[-1] = width
    return Rollout(
        prompts * prompt_mask,
        prompt_mask,
        torch.randint(2, VOCABULARY, (n, width), generator=rng),
        torch.arange(width) < ends[:, None],
        torch.zeros(n, width),
        torch.rand(n, width, VOCABULARY, generator=rng).topk(4).indices,
        torch.zeros(n, width, 4),
    )


def ending_at(rollout: Rollout, ends: Sequence[int]) -> Rollout:
    width = rollout.response_ids.shape[1]
    return dataclasses.replace(rollout, response_mask=torch.arange(width) < torch.tensor(ends)[:, None])


def plainly(policy: Policy, rollout: Rollout, temperature: float = 1.0) -> LogProbs:
    """Of the valid tokens, each row alone and unpadded, from whole logits."""
    out: list[tuple[Tensor, ...]] = []
    for i, valid in enumerate(rollout.response_mask):
        asked, response = rollout.prompt_ids[i][rollout.prompt_mask[i]], rollout.response_ids[i][valid]
        logits = policy.model(input_ids=torch.cat([asked, response])[None]).logits[0, len(asked) - 1 : -1]
        log_p = (logits / temperature).log_softmax(-1)
        own = log_p.gather(1, response[:, None])[:, 0]
        out.append((own, -(log_p.exp() * log_p).sum(-1), log_p.gather(1, rollout.top_ids[i][valid])))
    return LogProbs(*(torch.cat(part) for part in zip(*out, strict=True)))


def gradients(policy: Policy, log_probs: Tensor) -> dict[str, Tensor]:
    """Of a random linear function of the (M,) log-probs with respect to every parameter."""
    upstream = torch.randn(len(log_probs), generator=torch.Generator().manual_seed(1))
    named = dict(policy.model.named_parameters())
    return dict(zip(named, torch.autograd.grad(log_probs @ upstream, list(named.values())), strict=True))


def assert_as_alone(policy: Policy, rollout: Rollout, temperature: float = 1.0) -> LogProbs:
    """All values of the valid tokens; returns what was found."""
    found = response_log_probs(policy, rollout, temperature, "topk")
    for key, value in vars(plainly(policy, rollout, temperature)).items():
        torch.testing.assert_close(vars(found)[key][rollout.response_mask], value, atol=1e-5, rtol=1e-5)
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("one_pass", [0, math.inf], ids=["many passes", "one pass"])
@pytest.mark.parametrize("name", slow_but(("gpt2", "mistral-window", "qwen3-grouped-tied"), LINEAR))
def test_any_model_sees_a_row_as_it_does_alone(name, one_pass, padded, tiled, set_cost):
    policy, rollout = policy_of(name), groups(padded=padded)
    set_cost(one_pass)
    found, valid = assert_as_alone(policy, rollout, 0.8).log_probs, rollout.response_mask
    assert (found[~valid] == 0).all()
    assert_near(gradients(policy, found[valid]), gradients(policy, plainly(policy, rollout, 0.8).log_probs))


@pytest.mark.parametrize("name", SHAPED)
def test_shaped_logits_are_made_whole(name, tiled):
    assert_as_alone(policy_of(name), groups())


@pytest.mark.parametrize("name", RECURRENT)
def test_who_remembers_more_than_keys_and_values_reads_every_row(name, tiled, set_cost):
    set_cost(0)
    assert_as_alone(policy_of(name, 1.0), groups(padded=False))


def test_a_head_with_a_bias_or_hooks(tiled):
    policy, rollout = policy_of("llama-grouped"), groups()
    policy.model.lm_head = torch.nn.Linear(24, VOCABULARY)
    found = assert_as_alone(policy, rollout).log_probs[rollout.response_mask]
    assert_near(gradients(policy, found), gradients(policy, plainly(policy, rollout).log_probs))
    policy.model.lm_head.register_forward_hook(lambda module, args, output: output / 2)
    assert_as_alone(policy, rollout)


@pytest.mark.parametrize("name", ["llama-tied", "llama-grouped"])
def test_bfloat16_products_with_a_float32_log_sum_exp(name, tiled):
    policy, rollout = policy_of(name, 2.0), groups()
    lower, valid = dataclasses.replace(policy, autocast=torch.bfloat16), rollout.response_mask
    whole, low = (response_log_probs(p, rollout, 1.0, "topk") for p in (policy, lower))
    assert {x.dtype for x in vars(low).values()} == {torch.float32}
    assert (low.top_log_probs[valid].exp().sum(-1) <= 1 + 1e-5).all()
    torch.testing.assert_close(low.log_probs[valid], whole.log_probs[valid], atol=0.05, rtol=0.02)
    true, found = (gradients(policy, each.log_probs[valid]) for each in (whole, low))
    for key, value in true.items():
        assert float((found[key] - value).norm() / value.norm()) < 0.1, key


@pytest.fixture
def costly(set_cost):
    """A policy to which one pass costs as much as a hundred tokens, and (rows, columns) of its passes from now on."""
    set_cost(100)
    policy, seen = policy_of("qwen3-grouped-tied"), []
    assert linear_head(policy.model) is not None
    layer = policy.model.base_model.layers[0]
    layer.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:2])))
    return policy, seen


def test_shared_prompts_are_read_once_where_that_pays(costly):
    policy, read = costly
    for sizes, width in (((8, 8), 5), ((8, 8), 1), ((1,) * 16, 5), ((2, 2), 60)):
        hidden_states(policy, groups(sizes, width))
    assert read == [(2, 9), (16, 4), (2, 9), (16, 13), (4, 68)]


@pytest.mark.parametrize(
    ("ends", "passes"),
    [
        ([40] * 8 + [19] * 8 + [3] * 16, [(8, 48), (8, 24), (16, 7)]),
        ([40] * 8 + [19] * 4 + [21] * 4 + [19] * 16, [(12, 48), (3, 6), (20, 18)]),
        ([40] * 31 + [3], [(4, 9), (32, 39)]),
        ([21, 40] * 16, [(4, 9), (32, 39)]),
    ],
    ids=["three lengths", "two lengths", "too few", "too long"],
)
def test_short_responses_are_computed_apart_where_that_pays(costly, ends, passes):
    policy, read = costly
    rollout = ending_at(groups((8, 8, 8, 8), width=40), ends)
    response_log_probs(policy, rollout, 1.0)
    assert read == passes
    if len(passes) > 2:
        assert_as_alone(policy, rollout)


@pytest.mark.parametrize("one_pass", [0, 100, math.inf])
@pytest.mark.parametrize("ends", [[0, 0, 0, 0], [0, 3, 7, 0]])
def test_responses_without_a_token_are_computed_with_the_others(one_pass, ends, set_cost):
    set_cost(one_pass)
    policy, whole = policy_of("qwen3-grouped-tied"), ending_at(groups((2, 2)), [7] * 4)
    rollout = ending_at(whole, ends)
    found, valid = response_log_probs(policy, rollout, 1.0, "topk").log_probs, rollout.response_mask
    assert found.shape == valid.shape
    assert found.isfinite().all()
    torch.testing.assert_close(found[valid], plainly(policy, whole).log_probs.view(valid.shape)[valid])


def test_a_pass_costs_a_tiny_policy_more_tokens_than_a_large_one():
    tiny, larger = (model("qwen3-untied", hidden_size=width) for width in (24, 96))
    assert module.pass_tokens(tiny) > module.pass_tokens(larger) > module.FEW


@pytest.mark.parametrize("one_pass", [0, math.inf], ids=["many passes", "one pass"])
@pytest.mark.parametrize(("temperature", "needs"), [(1.0, "log_probs"), (0.7, "topk"), (0.7, "full")])
def test_the_ratio_is_one_after_a_rollout(policy, ragged_prompts, one_pass, temperature, needs, tiled, set_cost):
    set_cost(one_pass)
    rollout = sample(policy, ragged_prompts, 20, temperature, torch.Generator().manual_seed(0), needs, k=5, samples=6)
    found, valid = response_log_probs(policy, rollout, temperature, needs), rollout.response_mask
    torch.testing.assert_close(found.log_probs[valid], rollout.log_probs[valid], atol=1e-5, rtol=0)
    assert rollout.needs == needs
    assert (found.log_probs.requires_grad, found.entropy.requires_grad) == (True, False)
    assert (found.top_log_probs is None) == (needs == "log_probs")
    if needs != "log_probs":
        assert found.top_log_probs.shape == (*valid.shape, 5 if needs == "topk" else 15)
        assert not found.top_log_probs.requires_grad
        torch.testing.assert_close(found.top_log_probs[valid], rollout.top_log_probs[valid], atol=1e-4, rtol=0)


@pytest.mark.parametrize("one_pass", [0, math.inf], ids=["many passes", "one pass"])
def test_the_padding_does_not_matter(one_pass, tiled, set_cost):
    set_cost(one_pass)
    policy, clean = policy_of("qwen3-grouped-tied"), groups()
    other = torch.randint(VOCABULARY, (8, 200), generator=torch.Generator().manual_seed(3))
    prompt, valid = clean.prompt_mask, clean.response_mask
    dirty = dataclasses.replace(
        clean,
        prompt_ids=clean.prompt_ids.where(prompt, other[:, :9]),
        response_ids=clean.response_ids.where(valid, other[:, :7]),
        top_ids=clean.top_ids.where(valid[..., None], 10**9),
    )
    first, again = (response_log_probs(policy, rollout, 1.0, "topk") for rollout in (clean, dirty))
    for a, b in zip(vars(first).values(), vars(again).values(), strict=True):
        assert torch.equal(a, b)
    assert_near(gradients(policy, again.log_probs[valid]), gradients(policy, first.log_probs[valid]), 1e-9)


def test_hidden_states_in_the_padding_are_never_touched(tiled, set_cost):
    policy, rollout = policy_of("llama-grouped"), groups()
    valid = rollout.response_mask

    def poison(module, args, output):
        output.last_hidden_state[:, -valid.shape[1] :][~valid] = torch.nan

    set_cost(math.inf)
    with torch.no_grad():
        clean = response_log_probs(policy, rollout, 1.0, "topk")
        policy.model.base_model.register_forward_hook(poison)
        assert hidden_states(policy, rollout)[~valid].isnan().all()
        dirty = response_log_probs(policy, rollout, 1.0, "topk")
    torch.testing.assert_close(dirty.log_probs, clean.log_probs, atol=1e-5, rtol=0)
    assert not any(bool(value.isnan().any()) for value in vars(dirty).values())


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns; views count like what they show."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def test_no_logits_are_made_where_none_are_asked_for(tiled):
    """Forward and backward, in a model whose own layers are smaller than the logits."""
    policy, rollout = sharp(model("llama-tied", VOCABULARY, intermediate_size=32)), groups((16, 16), width=12)
    logits = rollout.response_ids.numel() * VOCABULARY
    for needs, made in (("topk", False), ("full", True)):
        with Largest() as mode:
            response_log_probs(policy, rollout, 1.0, needs).log_probs.sum().backward()
        assert (mode.elements >= logits) == made


def test_top_k_needs_a_top_k_rollout(policy):
    rollout = sample(policy, [[3, 4]], 4, 1.0, None)
    with pytest.raises(ValueError, match="sampled with needs='topk'"):
        response_log_probs(policy, rollout, 1.0, "topk")
