"""Policies: the character tokenizer, saving and loading to the bit, what is refused."""

import json
from itertools import product

import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig

from experiments.architectures import ENCODERS, tiny_policy
from minicppo.rl.config import ModelConfig
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import NOW, Policy, build_policy, character_tokenizer, load_policy, save_policy
from minicppo.rl.sampling import sample
from minicppo.rl.tasks import make_task
from tests.rl.conftest import slow_but
from tests.rl.models import ALPHABET


def test_text_survives_the_tokenizer_and_only_a_final_end_is_dropped(policy):
    text = "6*4+2-0=;#"
    ids = policy.encode(text)
    assert len(ids) == len(text)
    assert policy.decode([*ids, policy.eos_id]) == text
    assert policy.decode([*ids, policy.pad_id, *ids, policy.eos_id]) == f"{text}<pad>{text}"


def test_a_character_outside_the_alphabet_is_an_error():
    with pytest.raises(Exception, match="UNK"):
        character_tokenizer("abc")("abd")


def test_the_default_policy_is_the_one_of_the_documents():
    policy = build_policy(ModelConfig(), make_task("chain"), seed=0)
    assert sum(parameter.numel() for parameter in policy.model.parameters()) == 83_264
    assert len(policy.tokenizer) == 15


def test_weights_are_a_function_of_the_seed():
    small = ModelConfig(hidden_size=16, intermediate_size=32, layers=1, heads=2)
    first, again, other = (build_policy(small, make_task("chain"), seed) for seed in (0, 0, 1))
    for a, b, c in zip(*(p.model.parameters() for p in (first, again, other)), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)


def test_a_policy_is_read_back_to_the_bit(policy, tmp_path):
    save_policy(policy, tmp_path)
    assert not list(tmp_path.glob("*.bin"))  # safetensors, no pickle
    again = load_policy(tmp_path)
    assert not again.chat
    saved, loaded = policy.model.state_dict(), again.model.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert again.encode("1+2=") == policy.encode("1+2=")
    assert (again.eos_id, again.pad_id) == (policy.eos_id, policy.pad_id)


def test_a_chat_template_is_used_where_there_is_one(policy, tmp_path):
    template = "{% for m in messages %}*{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    policy.tokenizer.chat_template = template
    save_policy(policy, tmp_path)
    chat = load_policy(tmp_path)
    assert chat.chat
    assert chat.encode("1+2") == policy.encode("*1+2=")
    assert load_policy(tmp_path, chat=False).encode("1+2") == policy.encode("1+2")


def test_missing_folder_and_missing_alphabet(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a saved model: it has no config\.json"):
        load_policy(tmp_path)
    task = make_task("chain")
    task.alphabet = ""
    with pytest.raises(ValueError, match=r"set model\.path"):
        build_policy(ModelConfig(), task, 0)


def test_a_tokenizer_without_an_end_is_refused(policy, tmp_path):
    policy.tokenizer.eos_token = None
    save_policy(policy, tmp_path)
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("of_tokenizer", "of_generation", "of_config", "ends"),
    [(1, None, None, {1}), (1, [1, 4], [5, 6], {1, 4, 5, 6}), (3, [], 1, {1, 3})],
)
def test_any_end_ends_a_response(of_tokenizer, of_generation, of_config, ends, tmp_path):
    policy = tiny_policy("llama")
    policy.tokenizer.eos_token = policy.tokenizer.convert_ids_to_tokens(of_tokenizer)
    policy.model.generation_config.eos_token_id, policy.model.config.eos_token_id = of_generation, of_config
    save_policy(policy, tmp_path)
    policy = load_policy(tmp_path)
    assert set(policy.ends) == ends
    rollout = sample(policy, [[5, 6]], 40, 1.0, torch.Generator().manual_seed(0), samples=40)
    seen = set()
    for ids, mask in zip(rollout.response_ids.tolist(), rollout.response_mask, strict=True):
        n = int(mask.sum())
        assert not ends & {*ids[: n - 1]}
        assert n == 40 or ids[n - 1] in ends
        assert policy.decode([7, ids[n - 1]]) == ("f" if ids[n - 1] in ends else policy.decode([7, ids[n - 1], 0])[:-5])
        seen.add(ids[n - 1])
    assert seen >= ends - {0}


FORMS = {"none": "$A", "start": "<bos> $A", "end": "$A <eos>", "both": "<bos> $A <eos>"}
TEMPLATES = [None, "{{ messages[0]['content'] }}", "{{ bos_token }}{{ messages[0]['content'] }}"]


@pytest.mark.parametrize(("form", "template", "text"), product(FORMS, TEMPLATES, ["ab", "<bos>ab", "ab<eos>"]))
def test_a_prompt_starts_once_and_does_not_end(form, template, text):
    policy = Policy(None, character_tokenizer(ALPHABET), chat=template is not None)
    policy.tokenizer.add_special_tokens({"bos_token": "<bos>"})
    added = processors.TemplateProcessing(single=FORMS[form], special_tokens=[("<bos>", 16), ("<eos>", 1)])
    policy.tokenizer.backend_tokenizer.post_processor = added
    policy.tokenizer.chat_template = template
    ids = policy.encode(text)
    starts = form in ("start", "both") or "bos" in (template or "") or "bos" in text
    assert ids == [16] * starts + [2, 3] + [1] * text.endswith("<eos>"), "what was typed stays"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "bloom", "cohere2"])
@pytest.mark.parametrize("needs", ["log_probs", "topk", "full"])
def test_ids_without_a_token_are_in_neither_pi_nor_mu(name, needs, monkeypatch):
    policy = tiny_policy(name, vocab_size=60)
    monkeypatch.setattr("minicppo.rl.log_probs.default_tile", lambda device: (4, 16))
    rollout = sample(policy, [[5, 6, 7], [4]], 20, 1.0, torch.Generator().manual_seed(0), needs, k=30, samples=8)
    assert int(rollout.response_ids.max()) < 16
    found, valid = response_log_probs(policy, rollout, 1.0, needs), rollout.response_mask
    torch.testing.assert_close(found.log_probs[valid].detach(), rollout.log_probs[valid], atol=1e-5, rtol=0)
    if needs == "topk":
        assert rollout.top_ids.shape[2] == 16
    if needs != "log_probs":
        assert not found.top_log_probs[valid].isinf().any()
        total = found.top_log_probs[valid].exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))
    whole = response_log_probs(policy, rollout, 1.0).log_probs[valid].sum()
    (slope,) = torch.autograd.grad(whole, policy.model.get_output_embeddings().weight)
    assert torch.isfinite(slope).all()
    tied = policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    assert tied or not slope[16:].any()


def test_a_hole_among_the_tokens_is_barred_too():
    policy = tiny_policy("llama", vocab_size=20)
    policy.tokenizer.add_tokens(["x", "y"])
    vocabulary = policy.tokenizer.get_vocab
    policy.tokenizer.get_vocab = lambda: {k: v for k, v in vocabulary().items() if v != 16}
    assert policy.barred(20).nonzero()[:, 0].tolist() == [16, 18, 19]


@pytest.mark.parametrize("form", ["%S", "%d %b %Y %H:%M:%S %% %-d %A %c"])
@pytest.mark.parametrize("template", ["{{ strftime_now('FORM') }}", "{% set f = 'FORM' %}{{ strftime_now(f) }}"])
def test_a_clock_in_a_template_stands_still(form, template):
    tokenizer = character_tokenizer("".join(map(chr, range(32, 127))))
    clock = template.replace("FORM", form)
    tokenizer.chat_template = f"  {{%- if true %}}{clock}{{% endif %}}|{{{{ messages[0].content }}}}"
    policy = Policy(None, tokenizer, chat=True)
    assert policy.decode(policy.encode("hi")) == NOW.strftime(form) + "|hi"


@pytest.mark.parametrize("name", slow_but(ENCODERS[:2], ENCODERS))
def test_an_encoder_is_refused(name, tmp_path):
    save_policy(tiny_policy(name), tmp_path)
    with pytest.raises(ValueError, match=r"is an encoder: .* Way out: a causal language model"):
        load_policy(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    load_policy(tmp_path)


@pytest.mark.parametrize("name", slow_but(["bart"], ["bart", "vit", "t5", "clip"]))
def test_what_is_no_language_model_at_all_is_refused(name, tmp_path):
    save_policy(tiny_policy("llama"), tmp_path)
    AutoConfig.for_model(name, d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Way out: "):
        load_policy(tmp_path)
