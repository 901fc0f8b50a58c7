"""The decoders and the sampler against a twin without a cache: one whole forward pass a row."""

import dataclasses
import math
from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from minicppo.rl import cuda_graph
from minicppo.rl.cuda_graph import Replay
from minicppo.rl.decoding import DirectDecoder, GeneralDecoder, decoder_for
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.sampling import pad, sample
from tests.rl.conftest import slow_but
from tests.rl.models import DIRECT, build, model

PROMPTS = [[5, 6, 7], [2, 3, 4, 5, 6, 7, 8, 9, 10], [4], [3, 9, 3, 9, 3]]
CACHED = [*DIRECT, "gpt-neox", "gpt2", "lfm2"]
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
QUICK = ("qwen3-grouped-tied", "gpt2", "lfm2")  # one of each kind of cache


@torch.no_grad()
def twin(policy: Policy, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    """log mu of the whole vocabulary at each token of a response, (T, V), from one pass over both."""
    logits = policy.model(torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return (logits.double() / temperature).log_softmax(-1)


@pytest.mark.parametrize("name", slow_but(QUICK, CACHED))
@pytest.mark.parametrize(
    ("samples", "batch", "temperature", "greedy", "needs"),
    [(5, None, 0.7, False, "topk"), (5, 3, 1.0, False, "full"), (1, 2, 1.0, True, "topk")],
)
def test_sampler_is_its_twin(name, samples, batch, temperature, greedy, needs):
    policy, width, lengths = build(name), 10, set()
    rows, seeded = len(PROMPTS) * samples, torch.Generator().manual_seed
    uniforms = torch.rand(rows, width, generator=seeded(3), dtype=torch.float64)
    generator = None if greedy else seeded(3)
    got = sample(policy, PROMPTS, width, temperature, generator, needs, k=4, samples=samples, batch=batch)
    asked = [ids[mask].tolist() for ids, mask in zip(got.prompt_ids, got.prompt_mask, strict=True)]
    assert asked == [prompt for prompt in PROMPTS for _ in range(samples)]
    for row, prompt in enumerate(asked):
        n = int(got.response_mask[row].sum())
        tokens = got.response_ids[row, :n]
        log_mu = twin(policy, prompt, tokens.tolist(), temperature)
        drawn = log_mu.argmax(-1) if greedy else (log_mu.exp().cumsum(-1) <= uniforms[row, :n, None]).sum(-1)
        assert tokens.tolist() == drawn.tolist()
        assert policy.eos_id not in tokens[:-1]
        assert n == width or tokens[-1] == policy.eos_id
        assert got.response_mask[row].tolist() == [t < n for t in range(got.response_mask.shape[1])]
        assert (got.response_ids[row, n:] == policy.pad_id).all()
        assert (got.log_probs[row, n:] == 0).all()
        log_mu = log_mu.float()
        own = log_mu.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(got.log_probs[row, :n], own, atol=1e-5, rtol=1e-5)
        top = log_mu if needs == "full" else log_mu.topk(4).values
        torch.testing.assert_close(got.top_log_probs[row, :n], top, atol=1e-5, rtol=1e-5)
        assert (got.top_log_probs[row, n:] == 0).all()
        if needs == "topk":
            torch.testing.assert_close(log_mu.gather(1, got.top_ids[row, :n]), top, atol=1e-5, rtol=1e-5)
        lengths.add(n)
    assert greedy or len(lengths) > 2, "rows must end at different times for this to mean anything"


def test_who_decodes_what():
    for name in CACHED:
        assert isinstance(decoder_for(model(name)), DirectDecoder if name in DIRECT else GeneralDecoder)
    window = model("qwen3-untied", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    stretched = model("llama-stretched", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    hooked = model("qwen3-untied")
    hooked.model.layers[0].register_forward_hook(lambda module, args, output: output)
    assert not any(isinstance(decoder_for(other), DirectDecoder) for other in (hooked, window, stretched))


def test_more_layers_than_the_configuration_says_are_refused():
    policy = build("gpt2")
    policy.model.config.num_hidden_layers = 1
    with pytest.raises(ValueError, match=r"no place in the cache of 1 layers .*Way out"):
        sample(policy, PROMPTS, 4, 1.0, None)


@pytest.mark.parametrize("name", [*slow_but(QUICK, CACHED), "mamba"])
def test_what_leaves_the_cache_empty_is_refused(name):
    """It would sample each token as if the one before it were the whole prompt. Before transformers 5.24: Mamba, and
    gradient checkpointing in training mode; later the cache is filled, and the numbers are those of the scorer."""
    policy, says = build(name), "MambaForCausalLM filled no past_key_values"
    if name != "mamba":
        says = "leave training mode where gradient checkpointing is on"
        expected = sample(policy, PROMPTS, 4, 1.0, None)
        policy.model.gradient_checkpointing_enable()
        assert torch.equal(sample(policy, PROMPTS, 4, 1.0, None).response_ids, expected.response_ids)
        policy.model.train()
        for module in policy.model.modules():  # nothing is dropped out, so that numbers can be compared
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    found, refused = None, ""
    try:
        found = sample(policy, PROMPTS[:1], 4, 1.0, None)
    except ValueError as error:
        refused = str(error)
    if found is None:
        assert says in refused
    else:
        again = response_log_probs(policy, found, 1.0).log_probs.detach()
        torch.testing.assert_close(again, found.log_probs, atol=1e-5, rtol=0)


def steps(decoder: DirectDecoder | GeneralDecoder, poison: float | None = None) -> list[Tensor]:
    """Logits of ten steps over ragged prompts, rows closing ranks on the way."""
    device, rng = decoder.model.device, torch.Generator().manual_seed(0)
    ids, mask = pad(PROMPTS, 0, device, left=True)
    with torch.no_grad():
        logits = [decoder.read(ids, mask, 3, 10).clone()]
        tokens, found = ids.new_zeros(12), logits[0].clone()  # steps may be recorded: these are theirs
        if poison is not None:
            assert isinstance(decoder, DirectDecoder)
            decoder.cache[..., ids.shape[1] :, :] = poison
        for t in range(10):
            if t == 4:
                decoder.keep(torch.tensor([0, 11, 2, 3, 10, 5, 6], device=device))
                tokens, found = tokens[:7].clone(), found[:7].clone()
            tokens.copy_(torch.randint(2, 16, tokens.shape, generator=rng))
            decoder.step(tokens, found.copy_)
            logits.append(found.clone())
    return logits


@pytest.mark.parametrize(
    ("name", "device", "autocast"),
    [
        *product(DIRECT, ["cpu"], [False]),
        *product(["qwen3-grouped-tied", "llama-grouped"], ["cpu"], [True]),
        *(pytest.param(DIRECT[0], "cuda", on, marks=NEEDS_GPU, id=f"captured-{on}") for on in (False, True)),
    ],
)
def test_direct_is_general(name, device, autocast):
    model, most = build(name).model.to(device), 1e-5 if device == "cpu" else 1e-3
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        for direct, general in zip(steps(DirectDecoder(model)), steps(GeneralDecoder(model)), strict=True):
            error = (direct.float().log_softmax(-1) - general.float().log_softmax(-1)).abs().max()
            assert error < (0.1 if autocast else most), "bfloat16 keeps eight bits"


@pytest.mark.parametrize(("block", "poison"), [(1, math.nan), (1, 1e30), (8, 1e4), (64, -1e4)])
def test_unfilled_columns_are_never_read(block, poison):
    """On a GPU whole blocks of columns are attended to, the unfilled ones under a mask: here on a CPU."""
    model = build("qwen3-grouped-tied").model
    clean = steps(DirectDecoder(model))
    for a, b in zip(clean, steps(DirectDecoder(model, block), poison), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@NEEDS_GPU
@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("needs", ["log_probs", "topk", "full"])
def test_on_a_gpu_rows_are_those_of_the_cpu(name, needs):
    policy = build(name)
    on_cpu = sample(policy, PROMPTS, 100, 1.0, torch.Generator().manual_seed(0), needs, k=4, samples=5)
    policy = dataclasses.replace(policy, model=policy.model.cuda())
    on_gpu = sample(policy, PROMPTS, 100, 1.0, torch.Generator().manual_seed(0), needs, k=4, samples=5, batch=2)
    assert on_gpu.response_ids.is_cuda
    same = (on_gpu.response_ids[:, :8].cpu() == on_cpu.response_ids[:, :8]).all(1)
    assert float(same.float().mean()) > 0.9, "but for a rare tie"
    torch.testing.assert_close(on_gpu.log_probs[:, :8].cpu()[same], on_cpu.log_probs[:, :8][same], atol=1e-3, rtol=1e-3)


@pytest.fixture
def recorded(monkeypatch):
    """What was recorded, by a stand-in for CUDA's graphs, which no CPU has."""
    names = []

    def record(step):
        names.append("recorded")
        return SimpleNamespace(replay=step)

    monkeypatch.setattr(cuda_graph, "_record", record)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(Replay, "ready", False)
    return names


def test_every_step_is_made_once_and_a_key_recorded_once_or_again_when_forgotten(recorded):
    make, made = Replay(torch.device("cuda")), []
    for t, key in enumerate("aaabbb"):
        make(key, lambda t=t: made.append(t))
    make.forget()
    make("b", lambda: made.append(9))
    assert made == [0, 1, 1, 3, 3, 3, 9], "the graph makes the step that it was recorded with"
    assert len(recorded) == 3


def test_the_first_step_is_plain_once_a_process_and_always_under_autocast(recorded, monkeypatch):
    for autocast, recordings in ((False, 0), (False, 1), (True, 0), (True, 0)):
        recorded.clear()
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device, on=autocast: on)
        Replay(torch.device("cuda"))("a", lambda: None)
        assert len(recorded) == recordings
