"""The C of a step of decoding on a CPU beside PyTorch's operations: the same logits, whatever lies in unused memory."""

import math

import pytest
import torch
from torch.nn import functional as F

from minicppo.kernels import native
from minicppo.kernels.native import Native, library
from minicppo.rl.decoding import DirectDecoder, GeneralDecoder
from tests.rl.models import model
from tests.rl.test_decoding import steps

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
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path))
    library.cache_clear()
    monkeypatch.setattr(native, "FLAGS", ["--no-such-flag"])
    assert library(1, 1, 16) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing half made is left"
    library.cache_clear()
    monkeypatch.setenv("MINICPPO_KERNELS", "0")
    assert library(1, 1, 16) is None
    library.cache_clear()
