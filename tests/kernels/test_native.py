"""The C of sampling on a CPU beside PyTorch's operations: the same responses, whatever lies in unused memory."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from minicppo.kernels import native
from minicppo.kernels.native import library
from minicppo.rl import direct, native_sampling, sampling
from minicppo.rl.policy import Policy, character_tokenizer
from minicppo.rl.sampling import sample
from tests.rl.models import model, sharp
from tests.rl.test_decoding import PROMPTS

WIDE = {"hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 4}
SHAPES = {  # architecture, keys, channels a head
    "qwen3-grouped-tied": {**WIDE, "num_key_value_heads": 2, "head_dim": 16},
    "qwen3-untied": {**WIDE, "num_key_value_heads": 4, "head_dim": 32},
    "qwen2-biased": {**WIDE, "num_key_value_heads": 1},
    "llama-stretched": {**WIDE, "num_key_value_heads": 4},
}
ONE_FAST = [*list(SHAPES)[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in list(SHAPES)[1:])]
MANY = [*PROMPTS, list(range(2, 16)) * 2, [7] * 17]  # more than one block of keys

pytestmark = pytest.mark.skipif(library(1, 1, 16) is None, reason="needs a C compiler")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[3, 48])
def slots(request, monkeypatch):
    """Few make rows wait for each other's."""
    monkeypatch.setattr(native_sampling, "SLOTS", request.param)


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that nothing has been written to holds no number."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **given: empty(*size, **given).fill_(math.nan))


def wide(name: str, vocabulary: int) -> Policy:
    """Twelve tokens of its vocabulary have no name, so they are never sampled."""
    policy = sharp(model(name, vocabulary, **SHAPES[name]))
    return dataclasses.replace(policy, tokenizer=character_tokenizer([chr(200 + i) for i in range(vocabulary - 14)]))


@pytest.mark.parametrize("most", [2, 5])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.usefixtures("slots")
def test_rows_that_wait_when_all_others_end_at_once_are_sampled(most, steps, monkeypatch):
    """Responses of one length end together, and may do so at the last step before a chance to interrupt."""
    policy = wide("qwen3-untied", 19)
    monkeypatch.setattr(Policy, "ends", (18,))  # which has no name, so nothing ends early
    monkeypatch.setattr(native_sampling, "STEPS", steps)
    rollout = sample(policy, MANY, most, 1.0, torch.Generator().manual_seed(1), samples=20)
    assert rollout.response_mask.all()
    assert len(rollout) == 20 * len(MANY)


@pytest.mark.parametrize("name", ONE_FAST)
@pytest.mark.parametrize("vocabulary", [19, 300])
@pytest.mark.parametrize("needs", ["log_probs", "topk", "full"])
@pytest.mark.parametrize(
    "given", [{"samples": 6, "likeliest": True}, {"samples": 9, "temperature": 0.6, "batch": 4}, {"seed": None}]
)
@pytest.mark.usefixtures("slots", "poisoned")
def test_samples_are_those_of_pytorch(name, vocabulary, needs, given, monkeypatch):
    policy, given, used = wide(name, vocabulary), {"samples": 1, "temperature": 1.0, "seed": 5} | given, []
    seed = given.pop("seed")

    def drawn():
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return sample(policy, MANY, generator=generator, needs=needs, max_new_tokens=20, **given)

    def spied(*arguments):
        used.append(True)
        return native_sampling.decode(*arguments)

    monkeypatch.setattr(sampling, "decode", spied)
    ours = drawn()
    assert used
    monkeypatch.setattr(sampling, "native", lambda model: None)
    plain = drawn()
    assert torch.equal(ours.response_ids, plain.response_ids)
    assert torch.equal(ours.response_mask, plain.response_mask)
    torch.testing.assert_close(ours.log_probs, plain.log_probs, atol=1e-5, rtol=1e-5)
    if needs != "log_probs":
        torch.testing.assert_close(ours.top_log_probs, plain.top_log_probs, atol=1e-4, rtol=1e-5)
    if needs == "topk":
        assert float((ours.top_ids == plain.top_ids).float().mean()) > 0.99, "but for ties"


def test_rows_do_not_depend_on_their_company(monkeypatch):
    """To the bit: a sum has one order, however many rows are computed together."""
    policy, found = wide("qwen3-untied", 300), []
    for slots, batch, steps in ((48, None, 64), (3, None, 64), (5, 1, 1), (1, None, 1), (3, None, 5)):
        monkeypatch.setattr(native_sampling, "SLOTS", slots)
        monkeypatch.setattr(native_sampling, "STEPS", steps)
        found.append(sample(policy, PROMPTS, 20, 1.0, torch.Generator().manual_seed(0), samples=7, batch=batch))
    assert all(torch.equal(found[0].response_ids, other.response_ids) for other in found)
    assert torch.equal(found[0].log_probs, found[1].log_probs)


def drawn(logits, uniforms):
    """The one token of each of many rows, from a head without weights: from its bias alone."""
    made = model("qwen3-untied", len(logits), **SHAPES["qwen3-untied"])
    made.lm_head = torch.nn.Linear(64, len(logits))
    with torch.no_grad():
        made.lm_head.weight.zero_()
        made.lm_head.bias.copy_(logits)
    policy = Policy(made, character_tokenizer("a"), whole_vocabulary=True)
    ids, log_probs = torch.zeros(len(uniforms), 1, dtype=torch.long), torch.zeros(len(uniforms), 1)
    layer = SimpleNamespace(keys=torch.zeros(1, 4, 3, 32), values=torch.zeros(1, 4, 3, 32))
    given = SimpleNamespace(layers=[layer, layer]), torch.ones(1, 3, dtype=torch.bool), logits[None]
    taken = native_sampling.decode(
        direct.native(made), policy, *given, len(uniforms), 1.0, uniforms[:, None].contiguous(), False,
        ids, log_probs, None, None,
    )  # fmt: skip
    assert (taken == 1).all()
    return ids[:, 0], log_probs[:, 0]


@pytest.mark.parametrize("vocabulary", [3, 16, 5 * 16 + 3])
def test_draws_follow_the_softmax(vocabulary):
    """An even grid of uniform numbers gives each token its share, to within one grid point; the ends have some."""
    n, rng = 20_000, torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(vocabulary, generator=rng)
    logits[::3] = -math.inf
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    grid[0], grid[-1] = 0.0, 1 - 2**-53
    tokens, log_probs = drawn(logits, grid)
    share = tokens.bincount(minlength=vocabulary) / n
    assert (tokens.diff() >= 0).all(), "tokens in the order of the vocabulary"
    assert float((share - logits.double().softmax(-1)).abs().max()) < 1.1 / n + 1e-6
    torch.testing.assert_close(log_probs, logits.log_softmax(-1)[tokens], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 7, 18])
def test_logits_that_are_no_numbers_have_no_log_prob(broken, at):
    logits = torch.zeros(19)
    logits[at] = broken
    tokens, log_probs = drawn(logits, torch.tensor([0.5, 0.9], dtype=torch.float64))
    assert log_probs.isnan().all()
    assert int(tokens.max()) < 19


@pytest.mark.parametrize("part", ["embed_tokens", "norm", "layers.1.self_attn.k_proj", "layers.0.mlp.gate_proj"])
def test_what_is_no_number_stays_none(part):
    policy = wide("qwen3-untied", 19)
    with torch.no_grad():
        policy.model.model.get_submodule(part).weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="24 of 24 responses"):
        sample(policy, MANY, 20, 1.0, torch.Generator().manual_seed(0), samples=4)


@pytest.mark.parametrize(
    "change", [{"head_dim": 24}, {"hidden_size": 40}, {"hidden_act": "gelu"}, {"mlp_bias": True}, {"dtype": "bfloat16"}]
)
def test_other_models_are_left_to_pytorch(change):
    name = "llama-stretched" if "mlp_bias" in change else "qwen3-untied"
    dtype = getattr(torch, change.pop("dtype", "float32"))
    made = model(name, **SHAPES[name] | change).to(dtype)
    assert direct.native(made) is None


def test_autocast_and_more_threads_are_left_to_pytorch():
    made = model("qwen3-untied", **SHAPES["qwen3-untied"])
    assert direct.native(made) is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert direct.native(made) is None
    torch.set_num_threads(2)
    assert direct.native(made) is None


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
