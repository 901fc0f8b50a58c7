"""The C of a step of decoding on a CPU beside PyTorch's operations: the same logits, whatever lies in unused memory."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from minicppo.kernels import native
from minicppo.kernels.native import Native, library
from minicppo.rl import decoding
from minicppo.rl.decoding import DirectDecoder, GeneralDecoder
from minicppo.rl.policy import Policy, character_tokenizer
from minicppo.rl.sampling import sample
from tests.rl.models import model, sharp
from tests.rl.test_decoding import PROMPTS, steps

WIDE = {"hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 4}
SHAPES = {  # architecture, keys, channels a head
    "qwen3-grouped-tied": {**WIDE, "num_key_value_heads": 2, "head_dim": 16},
    "qwen3-untied": {**WIDE, "num_key_value_heads": 4, "head_dim": 32},
    "qwen2-biased": {**WIDE, "num_key_value_heads": 1},
    "llama-stretched": {**WIDE, "num_key_value_heads": 4},
}

pytestmark = pytest.mark.skipif(library(1, 1, 16) is None, reason="needs a C compiler")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_blocked_is_a_copy():
    keys = torch.arange(3 * 16 * 16.0).view(3, 16, 16)
    assert torch.equal(Native.blocked(keys), keys.transpose(1, 2)), "one block: channel by channel"
    keys[:] = Native.blocked(keys)


class Poisoned(DirectDecoder):
    """What no column has been written to holds no number."""

    def read(self, *given):
        logits = super().read(*given)
        unfilled = torch.zeros(self.cache.shape[-2:], dtype=torch.bool)
        unfilled[self.filled :] = True
        self.cache[:, 0][..., Native.blocked(unfilled)] = self.cache[:, 1][..., unfilled] = math.nan
        return logits


@pytest.mark.parametrize("name", SHAPES)
def test_steps_are_the_general_decoder_s(name):
    made = model(name, **SHAPES[name])
    decoder = Poisoned(made)
    for ours, plain in zip(steps(decoder), steps(GeneralDecoder(made)), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    assert decoder.native is not None


def wide(vocabulary: int) -> Policy:
    """Twelve tokens of its vocabulary have no name, so they are never sampled."""
    made = model("qwen3-grouped-tied", vocabulary, **SHAPES["qwen3-grouped-tied"])
    policy = sharp(made)
    return dataclasses.replace(policy, tokenizer=character_tokenizer([chr(200 + i) for i in range(vocabulary - 14)]))


@pytest.mark.parametrize("vocabulary", [19, 300])
@pytest.mark.parametrize("needs", ["log_probs", "topk", "full"])
@pytest.mark.parametrize(
    "given", [{"samples": 6, "likeliest": True}, {"samples": 9, "temperature": 0.6}, {"seed": None}]
)
def test_samples_are_those_of_pytorch(vocabulary, needs, given, monkeypatch):
    policy, given = wide(vocabulary), {"samples": 1, "temperature": 1.0, "seed": 5} | given
    seed = given.pop("seed")

    def drawn():
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return sample(policy, PROMPTS, generator=generator, needs=needs, max_new_tokens=20, **given)

    ours = drawn()
    monkeypatch.setattr(decoding, "_native", lambda model: None)
    plain = drawn()
    assert torch.equal(ours.response_ids, plain.response_ids)
    assert torch.equal(ours.response_mask, plain.response_mask)
    torch.testing.assert_close(ours.log_probs, plain.log_probs, atol=1e-5, rtol=1e-5)
    if needs != "log_probs":
        torch.testing.assert_close(ours.top_log_probs, plain.top_log_probs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [3, 16, 5 * 16 + 3])
def test_draws_follow_the_softmax(vocabulary):
    """An even grid of uniform numbers gives each token its share, to within one grid point; the ends have some."""
    n, rng = 20_000, torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(vocabulary, generator=rng)
    logits[::3] = -math.inf
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    grid[0], grid[-1] = 0.0, 1 - 2**-53
    tokens, log_probs = draw(logits.expand(n, vocabulary).contiguous(), grid)
    share = tokens.bincount(minlength=vocabulary) / n
    assert (tokens.diff() >= 0).all(), "tokens in the order of the vocabulary"
    assert float((share - logits.double().softmax(-1)).abs().max()) < 1.1 / n + 1e-6
    torch.testing.assert_close(log_probs, logits.log_softmax(-1)[tokens], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 7, 18])
def test_logits_that_are_no_numbers_have_no_log_prob(broken, at):
    logits = torch.zeros(2, 19)
    logits[1, at] = broken
    tokens, log_probs = draw(logits, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert log_probs.isnan().tolist() == [False, True]
    assert int(tokens.max()) < 19


def draw(logits, uniforms):
    """One step of as many rows."""
    n, one = len(logits), torch.zeros(1, dtype=torch.long)
    rows, tokens, ids = torch.arange(n), torch.zeros(n, dtype=torch.long), torch.zeros(n, 1, dtype=torch.long)
    log_probs, alive = torch.empty(n, 1), torch.ones(n, dtype=torch.bool)
    Native(library(1, 1, 16)).draw(
        *(logits, None, 1.0, uniforms[:, None].contiguous(), 0, rows, one, one + 1, tokens, ids, log_probs, alive, None)
    )
    assert torch.equal(ids[:, 0], tokens)
    assert torch.equal(alive, tokens != 1)
    return tokens, log_probs[:, 0]


def test_norm_and_gate():
    functions = Native(library(1, 1, 16))
    x, both = 3 * torch.randn(7, 48), torch.cat([torch.linspace(-200, 200, 224).view(7, 32), torch.randn(7, 32)], 1)
    norm = torch.nn.RMSNorm(48)
    norm.variance_epsilon = 1e-6
    with torch.no_grad():
        norm.weight.copy_(torch.rand(48))
        expected = F.rms_norm(x, (48,), norm.weight, 1e-6)
    torch.testing.assert_close(functions.norm(norm, x), expected, atol=1e-6, rtol=1e-6)
    gates, ups = both.split(32, 1)
    torch.testing.assert_close(functions.gate(gates, ups), F.silu(gates) * ups, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("part", ["embed_tokens", "norm", "layers.1.self_attn.k_proj", "layers.0.mlp.gate_proj"])
def test_what_is_no_number_stays_none(part):
    made = model("qwen3-untied", **SHAPES["qwen3-untied"])
    with torch.no_grad():
        made.model.get_submodule(part).weight.fill_(math.nan)
    assert all(step.isnan().all() for step in steps(DirectDecoder(made)))


@pytest.mark.parametrize("change", [{"head_dim": 24}, {"hidden_size": 40}, {"hidden_act": "gelu"}])
def test_other_shapes_are_left_to_pytorch(change):
    made = model("qwen3-untied", **SHAPES["qwen3-untied"] | change)
    decoder = DirectDecoder(made)
    for ours, plain in zip(steps(decoder), steps(GeneralDecoder(made)), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    assert decoder.native is None


def test_without_a_compiler_or_where_it_fails_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    monkeypatch.setattr(native, "FLAGS", ["--no-such-flag"])
    assert library(1, 1, 16) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing half made is left"
    library.cache_clear()
    monkeypatch.setenv("MINICPPO_KERNELS", "0")
    assert library(1, 1, 16) is None
    library.cache_clear()
