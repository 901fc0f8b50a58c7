"""The sampler: what it draws, and the rows that it refuses: those beyond what a model can read."""

import copy
import dataclasses
import math

import pytest
import torch

from experiments.architectures import tiny_policy
from minicppo.rl import sampling
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import load_policy, save_policy
from minicppo.rl.sampling import BLOCK, inverse_cdf, sample


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("generator", [None, seeded()])
def test_logits_that_are_not_finite_are_told(policy, ragged_prompts, generator):
    broken = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[3] = math.nan
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        sample(broken, ragged_prompts, 8, 1.0, generator)


@pytest.mark.parametrize("batch", [None, 2])
def test_the_likeliest_tokens_come_beside_the_samples(policy, ragged_prompts, batch):
    both = sample(policy, ragged_prompts, 20, 0.7, seeded(), samples=3, batch=batch, likeliest=True)
    first = torch.arange(len(both)) % 4 == 0
    alone = (
        (first, sample(policy, ragged_prompts, 20, 0.7, None)),
        (~first, sample(policy, ragged_prompts, 20, 0.7, seeded(), samples=3)),
    )
    for rows, expected in alone:
        found, width = both.rows(rows), expected.response_ids.shape[1]
        assert torch.equal(found.response_ids[:, :width], expected.response_ids)
        assert int(found.response_mask.sum()) == int(expected.response_mask.sum())


def test_an_end_token_that_pads_too_stops_a_row_and_is_trained(policy, ragged_prompts):
    """Only lengths can tell the end from the padding."""
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    rollout = sample(policy, ragged_prompts, 24, 1.0, seeded(), samples=8)
    last, is_end = rollout.response_mask.sum(1) - 1, rollout.response_ids == policy.eos_id
    stopped = last < 23
    assert stopped.any()
    assert is_end[stopped, last[stopped]].all()
    assert not is_end[torch.arange(is_end.shape[1]) < last[:, None]].any()
    ends = response_log_probs(policy, rollout, 1.0).log_probs[stopped, last[stopped]]
    (gradient,) = torch.autograd.grad(ends.sum(), policy.model.get_input_embeddings().weight)
    assert gradient[policy.eos_id].abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [[3], []]}, "no prompt may be empty"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
    ],
)
def test_bad_requests(policy, change, message):
    request = {"prompts": [[3]], "max_new_tokens": 4, "temperature": 1.0, "generator": None}
    with pytest.raises(ValueError, match=message):
        sample(policy, **{**request, **change})


def test_log_probs_are_float32_under_autocast(policy, ragged_prompts):
    rollout = sample(dataclasses.replace(policy, autocast=torch.bfloat16), ragged_prompts, 12, 1.0, seeded(), "full")
    assert rollout.log_probs.dtype == rollout.top_log_probs.dtype == torch.float32
    total = rollout.top_log_probs.exp().sum(-1)[rollout.response_mask]
    torch.testing.assert_close(total, torch.ones_like(total))
    own = rollout.top_log_probs.gather(2, rollout.response_ids[..., None])[..., 0]
    assert torch.equal(own[rollout.response_mask], rollout.log_probs[rollout.response_mask])


@pytest.mark.parametrize("width", [3, BLOCK, 5 * BLOCK + 17])
def test_draws_follow_the_softmax(width):
    """An even grid of uniform numbers gives each token its share, to within one grid point."""
    torch.manual_seed(width)
    logits = 3 * torch.randn(width)
    logits[1::3] = -math.inf
    n = 20_000
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = torch.cat([inverse_cdf(logits.expand(len(part), width), part) for part in grid.split(2_000)])
    share = tokens.bincount(minlength=width) / n
    assert (tokens.diff() >= 0).all(), "tokens in the order of the vocabulary"
    assert float((share - logits.double().softmax(-1)).abs().max()) < 1.1 / n + 1e-6
    assert (share[1::3] == 0).all()


def test_draws_at_the_ends_have_a_probability():
    logits = torch.full((2, 3 * BLOCK), -math.inf)
    logits[:, BLOCK + 4], logits[:, BLOCK + 9] = 0.0, 1.0
    assert inverse_cdf(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [BLOCK + 4, BLOCK + 9]


def test_top_p_keeps_the_fewest_likeliest():
    log_p = torch.tensor([0.5, 0.15, 0.05, 0.3]).log()
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for top_p, kept in ((0.4, [0]), (0.6, [0, 3]), (0.81, [0, 1, 3])):
        counts = inverse_cdf(log_p.expand(1000, 4), grid, top_p).bincount(minlength=4)
        expected = torch.zeros(4).index_copy(0, torch.tensor(kept), log_p.exp()[kept])
        torch.testing.assert_close(counts / 1000, expected / expected.sum(), atol=2e-3, rtol=0)


def test_top_p_is_for_evaluation_only(policy, ragged_prompts):
    narrow = sample(policy, ragged_prompts, 6, 1.0, seeded(), top_p=1e-6)
    greedy = sample(policy, ragged_prompts, 6, 1.0, None)
    assert torch.equal(narrow.response_ids, greedy.response_ids)
    assert torch.equal(narrow.log_probs, greedy.log_probs), "of the whole softmax"
    for top_p, needs in ((0.0, "log_probs"), (1.5, "log_probs"), (0.9, "topk")):
        with pytest.raises(ValueError, match="top_p must lie in"):
            sample(policy, ragged_prompts, 6, 1.0, None, needs=needs, top_p=top_p)


def test_closing_ranks_moves_only_who_fills_a_gap():
    alive = torch.tensor([True, False, True, False, False, True, True])
    assert sampling._close_ranks(alive, 4).tolist() == [0, 5, 2, 6]


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
