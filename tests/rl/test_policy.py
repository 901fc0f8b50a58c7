"""Policies: the character tokenizer, saving and loading to the bit, what is refused."""

import pytest
import torch

from minicppo.rl.config import ModelConfig
from minicppo.rl.policy import build_policy, character_tokenizer, load_policy, save_policy
from minicppo.rl.tasks import make_task


def test_text_survives_the_tokenizer(policy):
    text = "6*4+2-0=;#"
    ids = policy.encode(text)
    assert len(ids) == len(text)
    assert policy.decode([*ids, policy.eos_id]) == text


def test_only_the_final_end_token_is_dropped(policy):
    ids = policy.encode("1+")
    assert policy.decode([*ids, policy.pad_id, *ids, policy.eos_id]) == "1+<pad>1+"


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
