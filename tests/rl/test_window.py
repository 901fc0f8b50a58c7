"""Rows that a model cannot read, and those on which its rope would depend on their neighbours, are refused."""

import pytest
import torch

from experiments.architectures import tiny_policy
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import load_policy, save_policy
from minicppo.rl.sampling import sample

LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
WINDOWS = {  # of 16 positions each
    "gpt2": ("gpt2", {"max_position_embeddings": 16}),
    "llama": ("llama", {"max_position_embeddings": 16}),
    "opt": ("opt", {"max_position_embeddings": 16}),
    "mpt": ("mpt", {"max_seq_len": 16}),
    "dynamic": ("llama", {"max_position_embeddings": 16,
                          "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 8.0}}),
    "longrope": ("phi3", {"max_position_embeddings": 64, "original_max_position_embeddings": 16,
                          "rope_parameters": LONGROPE}),
}  # fmt: skip


def gap(policy, prompts, width):
    rollout = sample(policy, prompts, width, 1.0, torch.Generator().manual_seed(0), samples=4)
    found = response_log_probs(policy, rollout, 1.0).log_probs.detach() - rollout.log_probs
    return float(found[rollout.response_mask].abs().max())


@pytest.mark.parametrize("name", WINDOWS)
def test_rows_fill_the_window_and_no_more(name):
    kind, settings = WINDOWS[name]
    policy = tiny_policy(kind, **settings)
    long, short = [2, 3, 4, 5, 6, 7, 8, 9], [5]
    assert gap(policy, [long, short], 8) <= 1e-4
    for prompts, width in (([long, short], 9), ([short], 16), ([long], 500)):
        with pytest.raises(ValueError, match=r"do not fit into the 16 positions of .*Way out: max_new_tokens="):
            sample(policy, prompts, width, 1.0, None)


def test_without_a_window_there_is_no_limit():
    assert gap(tiny_policy("bloom"), [[5, 6]], 200) <= 1e-4


@pytest.mark.parametrize("extra", [1, 3])
def test_a_token_without_a_row_is_named(extra):
    policy = tiny_policy("llama")
    policy.tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{i}|>" for i in range(extra)]})
    sample(policy, [policy.encode("abc")], 2, 1.0, None)
    with pytest.raises(
        ValueError, match=rf"token '<\|{extra - 1}\|>' has the id {15 + extra}, .* has 16 rows.*Way out"
    ):
        sample(policy, [policy.encode(f"abc<|{extra - 1}|>")], 2, 1.0, None)


@pytest.mark.parametrize("role", ["pad_token", "eos_token", "bos_token", "template"])
def test_a_folder_whose_own_tokens_have_no_row_is_refused(role, tmp_path):
    policy = tiny_policy("llama")
    if role == "template":
        policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
        policy.tokenizer.chat_template = "<new>{{ messages[0]['content'] }}"
    else:
        policy.tokenizer.add_special_tokens({role: "<new>"})
    if role == "bos_token":  # known, and never put before a text
        save_policy(policy, tmp_path)
        assert load_policy(tmp_path).encode("ab") == policy.encode("ab")
        return
    save_policy(policy, tmp_path)
    with pytest.raises(ValueError, match="token '<new>' has the id 16"):
        load_policy(tmp_path)
