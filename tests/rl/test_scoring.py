"""The scorer: its head equals the loop twin and the plain way, in memory that knows nothing of tokens x vocabulary."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minicppo.reference.lm_head import head_entropy, head_gradients, head_log_probs
from minicppo.rl import log_probs as scoring
from minicppo.rl.lm_head import linear_head, token_log_probs
from minicppo.rl.log_probs import hidden_states, response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Needs, Rollout
from minicppo.rl.sampling import sample

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama, untied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=12, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=61, n_embd=24, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=1)
    ),
    "mistral, sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5)),
}
SHAPED: dict[str, Callable[[], PreTrainedModel]] = {  # the logits are more than a linear layer
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=12, final_logit_softcapping=2.0)),
    "cohere2": lambda: Cohere2ForCausalLM(Cohere2Config(**SIZES, logit_scale=0.25)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=3.0)),
}


def sharp(make: Callable[[], PreTrainedModel], factor: float = 4.0) -> Policy:
    """A random model in evaluation mode whose tokens differ in probability."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln_" not in name:
                parameter.mul_(factor)
    return Policy(model, None)  # type: ignore[arg-type]


def groups(sizes: Sequence[int] = (3, 1, 4), seed: int = 0, width: int = 7, padded: bool = True) -> Rollout:
    """A rollout in groups of these sizes: prompts of up to 9 tokens, responses of up to `width`, 4 cells each."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 10, (len(sizes),), generator=draw) if padded else torch.full((len(sizes),), 9)
    lengths[0] = 9
    repeats = torch.tensor(sizes)
    prompt_mask = (torch.arange(9) >= 9 - lengths[:, None]).repeat_interleave(repeats, 0)
    prompts = torch.randint(2, 61, (len(sizes), 9), generator=draw).repeat_interleave(repeats, 0)
    n = len(prompts)
    ends = torch.randint(1, width + 1, (n,), generator=draw)
    ends[-1] = width
    return Rollout(
        prompts * prompt_mask,
        prompt_mask,
        torch.randint(2, 61, (n, width), generator=draw),
        torch.arange(width) < ends[:, None],
        torch.zeros(n, width),
        torch.rand(n, width, 61, generator=draw).topk(4).indices,
        torch.zeros(n, width, 4),
    )


def plainly(policy: Policy, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, entropy and cells of the valid tokens, each row alone and unpadded, from whole logits."""
    out: list[tuple[Tensor, Tensor, Tensor]] = []
    assert rollout.top_ids is not None
    for row in range(len(rollout)):
        prompt = rollout.prompt_ids[row, rollout.prompt_mask[row]]
        response = rollout.response_ids[row, rollout.response_mask[row]]
        logits = policy.model(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        log_p = (logits / temperature).log_softmax(-1)
        cells = log_p.gather(1, rollout.top_ids[row, rollout.response_mask[row]])
        out.append((log_p.gather(1, response[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1), cells))
    return tuple(torch.cat(part) for part in zip(*out, strict=True))  # type: ignore[return-value]


def gradients(policy: Policy, log_probs: Tensor) -> dict[str, Tensor]:
    """Of a random linear function of the (M,) log-probs with respect to every parameter."""
    upstream = torch.randn(len(log_probs), generator=torch.Generator().manual_seed(1))
    named = dict(policy.model.named_parameters())
    return dict(zip(named, torch.autograd.grad(log_probs @ upstream, list(named.values())), strict=True))


def assert_near(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-5) -> None:
    """Each tensor to `rtol` of the largest entry of all."""
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=rtol * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No logits are small enough to be made whole."""
    monkeypatch.setattr(scoring, "default_tile", lambda device: (8, 16))
    monkeypatch.setattr("minicppo.rl.lm_head.default_tile", lambda device: (8, 16))


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


def inputs(
    m: int, v: int, d: int, k: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weights and bias with gradient; targets, cells and upstream gradients."""
    draw = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((m, d), (v, d), (v,))
    )
    targets = torch.randint(v, (m,), generator=draw)
    cells = torch.randint(v, (m, k), generator=draw)
    return hidden, weight, bias, targets, cells, torch.randn(m, generator=draw, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.9])
@pytest.mark.parametrize("tile", [(64, 256), (5, 16), (1, 101), (13, 1), (4, 7)])
def test_the_head_is_its_loop_twin(tile: tuple[int, int], temperature: float, seed: int) -> None:
    hidden, weight, bias, targets, cells, upstream = inputs(13, 101, 6, 4, seed=seed)
    found = token_log_probs(hidden, weight, bias, targets, cells, temperature, tile)
    given = [x.detach().numpy() for x in (hidden, weight, bias)]
    rows = np.array([head_log_probs(h, *given[1:], temperature) for h in given[0]])
    everywhere = np.arange(13)
    np.testing.assert_allclose(found.log_probs.detach(), rows[everywhere, targets], rtol=1e-12)
    np.testing.assert_allclose(found.entropy, [head_entropy(row) for row in rows], rtol=1e-11)
    assert found.top_log_probs is not None
    np.testing.assert_allclose(found.top_log_probs, np.take_along_axis(rows, cells.numpy(), 1), rtol=1e-12)
    twin = head_gradients(*given, targets.tolist(), temperature, upstream.tolist())
    own = torch.autograd.grad(found.log_probs, (hidden, weight, bias), upstream)
    for mine, theirs in zip(own, twin, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12 * np.abs(theirs).max())


def test_the_head_in_float32_and_without_bias_or_cells() -> None:
    hidden, weight, _, targets, _, upstream = inputs(70, 1001, 32, 1, torch.float32)
    found = token_log_probs(hidden, weight, None, targets, tile=(16, 128))
    assert found.top_log_probs is None
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    log_p = (wide[0] @ wide[1].T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    own = torch.autograd.grad(found.log_probs, (hidden, weight), upstream)
    true = torch.autograd.grad(log_p, wide, upstream.double())
    assert_near(
        {"log_probs": found.log_probs.detach().double(), "hidden": own[0].double(), "weight": own[1].double()},
        {"log_probs": log_p.detach(), "hidden": true[0], "weight": true[1]},
    )


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    hidden, weight, bias, targets, cells, upstream = inputs(9, 33, 5, 2)
    whole = torch.autograd.grad(token_log_probs(hidden, weight, bias, targets).log_probs, (hidden, weight), upstream)
    found = token_log_probs(hidden, weight.detach(), bias.detach(), targets, cells, tile=(4, 8))
    assert not found.entropy.requires_grad
    assert found.top_log_probs is not None
    assert not found.top_log_probs.requires_grad
    torch.testing.assert_close(torch.autograd.grad(found.log_probs, hidden, upstream)[0], whole[0])
    found = token_log_probs(hidden.detach(), weight, None, targets, tile=(4, 8))
    assert torch.autograd.grad(found.log_probs, weight, upstream)[0].shape == weight.shape
    assert not token_log_probs(hidden.detach(), weight.detach(), None, targets).log_probs.requires_grad


def test_no_tokens_at_all() -> None:
    hidden, weight, bias, targets, cells, _ = inputs(0, 33, 5, 2)
    found = token_log_probs(hidden, weight, bias, targets, cells)
    assert [len(x) for x in vars(found).values() if x is not None] == [0, 0, 0]
    found.log_probs.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_sure_token_keeps_its_small_gradient_in_bfloat16() -> None:
    """1 - p of a token with p = 0.9999 is below bfloat16's resolution of p."""
    weight = torch.eye(4) * 10
    hidden = torch.eye(4)[:1].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs = token_log_probs(hidden, weight, None, torch.tensor([0])).log_probs
    (found,) = torch.autograd.grad(log_probs.sum(), hidden)
    rest = 3 / (np.exp(10.0) + 3)
    assert abs(float(found[0, 0]) / (10 * rest) - 1) < 0.01


@pytest.mark.parametrize("name", ["llama, tied", "llama, untied"])
def test_bfloat16_products_with_a_float32_log_sum_exp(name: str, tiled: None) -> None:
    policy, rollout = sharp(MODELS[name], 2.0), groups()
    lower = dataclasses.replace(policy, autocast=torch.bfloat16)
    valid = rollout.response_mask
    whole, low = (response_log_probs(p, rollout, 1.0, "topk") for p in (policy, lower))
    assert {x.dtype for x in vars(low).values()} == {torch.float32}
    assert low.top_log_probs is not None
    assert bool((low.top_log_probs[valid].exp().sum(-1) <= 1 + 1e-5).all())
    torch.testing.assert_close(low.log_probs[valid], whole.log_probs[valid], atol=0.05, rtol=0.02)
    true, found = (gradients(policy, s.log_probs[valid]) for s in (whole, low))
    for key, value in true.items():
        assert float((found[key] - value).norm() / value.norm()) < 0.1, key


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("one_pass", [0, math.inf], ids=["many passes", "one pass"])
@pytest.mark.parametrize("name", MODELS)
def test_any_model_scores_as_its_rows_do_alone(
    name: str, one_pass: float, padded: bool, tiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rollout = sharp(MODELS[name]), groups(padded=padded)
    monkeypatch.setattr(scoring, "pass_tokens", lambda model: one_pass)
    assert linear_head(policy.model) is not None
    found, valid = response_log_probs(policy, rollout, 0.8, "topk"), rollout.response_mask
    log_probs, entropy, cells = plainly(policy, rollout, 0.8)
    assert found.top_log_probs is not None
    torch.testing.assert_close(found.log_probs[valid], log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy[valid], entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.top_log_probs[valid], cells, atol=1e-5, rtol=1e-5)
    assert bool((found.log_probs[~valid] == 0).all())
    assert_near(gradients(policy, found.log_probs[valid]), gradients(policy, log_probs))


@pytest.mark.parametrize("name", SHAPED)
def test_shaped_logits_are_noticed_and_made_whole(name: str, tiled: None) -> None:
    policy, rollout = sharp(SHAPED[name]), groups()
    assert linear_head(policy.model) is None
    found, valid = response_log_probs(policy, rollout, 1.0, "topk"), rollout.response_mask
    log_probs, entropy, _ = plainly(policy, rollout, 1.0)
    torch.testing.assert_close(found.log_probs[valid], log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy[valid], entropy, atol=1e-5, rtol=1e-5)
    linear = torch.nn.functional.linear(
        policy.model.base_model(input_ids=rollout.prompt_ids[:1])[0], policy.model.get_output_embeddings().weight
    )
    shaped = policy.model(input_ids=rollout.prompt_ids[:1]).logits
    assert not torch.allclose(linear, shaped, atol=0.01), "the shaping must matter for this test to mean anything"


def test_a_head_that_goes_around_its_base_model_is_not_taken_for_a_linear_one(tiled: None) -> None:
    policy, rollout = sharp(lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=24))), groups()
    assert linear_head(policy.model) is None
    found = response_log_probs(policy, rollout, 1.0, "topk").log_probs[rollout.response_mask]
    torch.testing.assert_close(found, plainly(policy, rollout, 1.0)[0], atol=1e-5, rtol=1e-5)


def test_gemma2_without_its_cap_is_linear() -> None:
    make = lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=12, final_logit_softcapping=None))  # noqa: E731
    assert linear_head(sharp(make).model) is not None


def test_a_replaced_head_is_not_taken_for_a_linear_one() -> None:
    policy = sharp(MODELS["llama, untied"])

    class Adapted(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + input.sum(-1, keepdim=True)

    policy.model.lm_head = Adapted(24, 61, bias=False)
    assert linear_head(policy.model) is None


def test_a_head_replaced_or_hooked_later_is_asked_anew(tiled: None) -> None:
    policy, rollout = sharp(MODELS["llama, untied"]), groups()
    head = policy.model.get_output_embeddings()
    assert linear_head(policy.model) is head
    policy.model.lm_head = torch.nn.Sequential(head, torch.nn.Softplus())
    assert linear_head(policy.model) is None
    policy.model.lm_head = head
    for register in (
        lambda: head.register_forward_hook(lambda module, args, output: output / 2),
        lambda: head.register_forward_pre_hook(lambda module, args: args[0] / 2),
    ):
        hook = register()
        found = response_log_probs(policy, rollout, 1.0, "topk").log_probs[rollout.response_mask]
        torch.testing.assert_close(found, plainly(policy, rollout, 1.0)[0], atol=1e-5, rtol=1e-5)
        hook.remove()
    assert linear_head(policy.model) is head


def test_a_head_with_a_bias(tiled: None) -> None:
    policy, rollout = sharp(MODELS["llama, untied"]), groups()
    policy.model.lm_head = torch.nn.Linear(24, 61)
    found = response_log_probs(policy, rollout, 1.0, "topk").log_probs[rollout.response_mask]
    expected = plainly(policy, rollout, 1.0)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert_near(gradients(policy, found), gradients(policy, expected))


def test_a_model_without_keys_and_values_reads_every_row(tiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MambaConfig(vocab_size=61, hidden_size=24, num_hidden_layers=2, state_size=4, eos_token_id=1)
    policy, rollout = sharp(lambda: MambaForCausalLM(config), 1.0), groups(padded=False)
    monkeypatch.setattr(scoring, "pass_tokens", lambda model: 0)
    found = response_log_probs(policy, rollout, 1.0, "topk").log_probs[rollout.response_mask]
    torch.testing.assert_close(found, plainly(policy, rollout, 1.0)[0], atol=1e-5, rtol=1e-5)


def test_keys_and_values_beside_a_recurrent_state_read_every_row(tiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
    make = lambda: FalconH1ForCausalLM(FalconH1Config(**SIZES, head_dim=12, **mixer))  # noqa: E731
    policy, rollout = sharp(make, 1.0), groups(padded=False)
    monkeypatch.setattr(scoring, "pass_tokens", lambda model: 0)
    found = response_log_probs(policy, rollout, 1.0, "topk").log_probs[rollout.response_mask]
    torch.testing.assert_close(found, plainly(policy, rollout, 1.0)[0], atol=1e-5, rtol=1e-5)


@pytest.fixture
def read(policy_of_passes: Policy) -> list[tuple[int, ...]]:
    """(rows, columns) of every pass over that policy's layers so far."""
    seen: list[tuple[int, ...]] = []
    layer = policy_of_passes.model.base_model.layers[0]
    layer.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:2])))
    return seen


@pytest.fixture
def policy_of_passes(monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy to which one pass costs as much as a hundred tokens."""
    monkeypatch.setattr(scoring, "pass_tokens", lambda model: 100)
    return sharp(MODELS["qwen3"])


def test_shared_prompts_are_read_once_where_that_pays(policy_of_passes: Policy, read: list[tuple[int, ...]]) -> None:
    hidden_states(policy_of_passes, groups((8, 8), width=5))
    hidden_states(policy_of_passes, groups((8, 8), width=1))
    hidden_states(policy_of_passes, groups((1,) * 16, width=5))
    hidden_states(policy_of_passes, groups((2, 2), width=60))
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
def test_short_responses_are_scored_apart_where_that_pays(
    policy_of_passes: Policy, read: list[tuple[int, ...]], ends: list[int], passes: list[tuple[int, ...]]
) -> None:
    rollout = groups((8, 8, 8, 8), width=40)
    rollout = dataclasses.replace(rollout, response_mask=torch.arange(40) < torch.tensor(ends)[:, None])
    assert linear_head(policy_of_passes.model) is not None
    read.clear()
    found = response_log_probs(policy_of_passes, rollout, 1.0, "topk")
    assert read == passes
    valid, plain = rollout.response_mask, plainly(policy_of_passes, rollout, 1.0)
    assert found.top_log_probs is not None
    for mine, true in zip((found.log_probs, found.entropy, found.top_log_probs), plain, strict=True):
        torch.testing.assert_close(mine[valid], true, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("one_pass", [0, 100, math.inf])
@pytest.mark.parametrize("ends", [[0, 0, 0, 0], [5, 0, 0, 0], [0, 3, 7, 0], [1, 0, 0, 1]])
def test_responses_without_a_token_are_scored_with_the_others(
    one_pass: float, ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "pass_tokens", lambda model: one_pass)
    policy, rollout = sharp(MODELS["qwen3"]), groups((2, 2))
    rollout = dataclasses.replace(rollout, response_mask=torch.arange(7) < torch.tensor(ends)[:, None])
    found, valid = response_log_probs(policy, rollout, 1.0, "topk").log_probs, rollout.response_mask
    assert found.shape == valid.shape
    assert bool(found.isfinite().all())
    whole = dataclasses.replace(rollout, response_mask=torch.ones_like(valid))
    torch.testing.assert_close(found[valid], plainly(policy, whole, 1.0)[0].view(valid.shape)[valid])


def test_a_pass_costs_a_tiny_policy_more_tokens_than_a_large_one() -> None:
    tiny, larger = (Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "hidden_size": width})) for width in (24, 96))
    assert scoring.pass_tokens(tiny) > scoring.pass_tokens(larger) > scoring.FEW


@pytest.mark.parametrize("one_pass", [0, math.inf], ids=["many passes", "one pass"])
@pytest.mark.parametrize("needs", ["log_probs", "topk", "full"])
def test_the_ratio_is_one_after_a_rollout(
    policy: Policy,
    ragged_prompts: list[list[int]],
    one_pass: float,
    needs: Needs,
    tiled: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "pass_tokens", lambda model: one_pass)
    rollout = sample(policy, ragged_prompts, 20, 0.9, torch.Generator().manual_seed(0), needs=needs, k=5, samples=6)
    scores, valid = response_log_probs(policy, rollout, 0.9, needs), rollout.response_mask
    ratio = (scores.log_probs - rollout.log_probs).exp()[valid]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    if rollout.top_log_probs is not None:
        assert scores.top_log_probs is not None
        torch.testing.assert_close(scores.top_log_probs[valid], rollout.top_log_probs[valid], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_micro_batches_change_no_gradient(name: str, tiled: None) -> None:
    """Also where they cut through groups, so that prompts are shared by fewer rows, or by none."""
    policy, rollout = sharp(MODELS[name]), groups((4, 4, 4))
    upstream = torch.randn(12, 7, generator=torch.Generator().manual_seed(2)) * rollout.response_mask
    named = dict(policy.model.named_parameters())
    found = []
    for size in (12, 5, 1):
        policy.model.zero_grad()
        for rows in torch.arange(12).split(size):
            (response_log_probs(policy, rollout.rows(rows), 1.0).log_probs * upstream[rows]).sum().backward()
        found.append({key: parameter.grad.clone() for key, parameter in named.items() if parameter.grad is not None})
    assert_near(found[1], found[0])
    assert_near(found[2], found[0])


@pytest.mark.parametrize("one_pass", [0, math.inf], ids=["many passes", "one pass"])
def test_the_padding_does_not_matter(one_pass: float, tiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "pass_tokens", lambda model: one_pass)
    policy, clean = sharp(MODELS["qwen3"]), groups()
    assert clean.top_ids is not None
    other = torch.randint(61, (8, 200), generator=torch.Generator().manual_seed(3))
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
    found = gradients(policy, again.log_probs[valid])
    assert_near(found, gradients(policy, first.log_probs[valid]), 1e-9)


def test_hidden_states_in_the_padding_are_never_touched(tiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rollout = sharp(MODELS["llama, untied"]), groups()
    valid = rollout.response_mask
    clean = response_log_probs(policy, rollout, 1.0, "topk")

    def poison(module: Any, args: Any, output: Any) -> None:
        output.last_hidden_state[:, -valid.shape[1] :][~valid] = torch.nan

    monkeypatch.setattr(scoring, "pass_tokens", lambda model: math.inf)
    policy.model.base_model.register_forward_hook(poison)
    with torch.no_grad():
        assert bool(hidden_states(policy, rollout)[~valid].isnan().all())
        dirty = response_log_probs(policy, rollout, 1.0, "topk")
    torch.testing.assert_close(dirty.log_probs, clean.log_probs, atol=1e-5, rtol=0)
    assert not any(bool(value.isnan().any()) for value in vars(dirty).values())


def test_no_tensor_has_tokens_times_vocabulary_elements(tiled: None) -> None:
    largest = []
    for width in (7, 60):
        policy, rollout = sharp(MODELS["llama, tied"]), groups((8, 8), width=width)
        with torch.no_grad():
            hidden = hidden_states(policy, rollout)[rollout.response_mask].clone()
        head = policy.model.get_output_embeddings()
        hidden.requires_grad_()
        ids = rollout.response_ids[rollout.response_mask]
        with Largest() as mode:
            token_log_probs(hidden, head.weight, None, ids).log_probs.sum().backward()
        largest.append(mode.elements)
        assert largest[-1] <= max(hidden.numel(), head.weight.numel()) < len(ids) * 61
        with Largest() as mode:
            log_p = (hidden @ head.weight.T).log_softmax(-1)
        assert mode.elements == log_p.numel() == len(ids) * 61, "the watch must see what it watches for"


def test_scoring_makes_no_logits(tiled: None) -> None:
    """Of the whole of score(), forward and backward, in a model whose own layers are smaller than the logits."""
    policy, rollout = sharp(MODELS["llama, tied"]), groups((16, 16), width=12)
    with Largest() as mode:
        response_log_probs(policy, rollout, 1.0, "topk").log_probs.sum().backward()
    logits = rollout.response_ids.numel() * 61
    assert mode.elements < logits
    with Largest() as mode:
        response_log_probs(policy, rollout, 1.0, "full").log_probs.sum().backward()
    assert mode.elements >= logits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_on_a_gpu(dtype: torch.dtype) -> None:
    hidden, weight, bias, targets, cells, upstream = (x.detach() for x in inputs(300, 3001, 64, 4, torch.float32))
    hidden /= 8
    results = []
    for device in ("cpu", "cuda"):
        own = [x.to(device).requires_grad_() for x in (hidden, weight, bias)]
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            found = token_log_probs(*own, targets.to(device), cells.to(device), 0.9, (128, 512))
        grads = torch.autograd.grad(found.log_probs, own, upstream.to(device))
        results.append(
            {str(i): x.detach().cpu() for i, x in enumerate((*vars(found).values(), *grads)) if x is not None}
        )
    for key, value in results[0].items():
        assert_near({key: results[1][key]}, {key: value}, 1e-4 if dtype == torch.float32 else 0.03)
