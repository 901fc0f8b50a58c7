"""The sampler: log-probs are the scorer's, greedy tokens are transformers', and rows do not disturb each other."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Needs, Rollout
from minicppo.rl.sampling import inverse_cdf, sample


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("needs", ["log_probs", "topk", "full"])
def test_ratio_is_one_after_a_rollout(
    policy: Policy, ragged_prompts: list[list[int]], temperature: float, needs: Needs
) -> None:
    rollout = sample(policy, ragged_prompts, 20, temperature, seeded(), needs=needs, k=5, samples=6)
    scores = response_log_probs(policy, rollout, temperature, needs)
    valid = rollout.response_mask
    ratio = (scores.log_probs - rollout.log_probs).exp()[valid]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    if needs == "log_probs":
        assert scores.top_log_probs is None
        assert rollout.top_log_probs is None
    else:
        assert scores.top_log_probs is not None
        assert rollout.top_log_probs is not None
        assert scores.top_log_probs.shape[-1] == (5 if needs == "topk" else 15)
        torch.testing.assert_close(scores.top_log_probs[valid], rollout.top_log_probs[valid], atol=1e-4, rtol=0)


def test_another_temperature_is_another_distribution(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    rollout = sample(policy, ragged_prompts, 20, 0.7, seeded(), samples=6)
    drift = (response_log_probs(policy, rollout, 1.0).log_probs - rollout.log_probs)[rollout.response_mask].abs()
    assert drift.mean() > 0.05


def test_full_cells_are_distributions_with_the_sampled_token(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    rollout = sample(policy, ragged_prompts, 20, 1.0, seeded(), needs="full")
    assert rollout.top_log_probs is not None
    valid = rollout.response_mask
    total = rollout.top_log_probs.exp().sum(-1)[valid]
    torch.testing.assert_close(total, torch.ones_like(total))
    own = rollout.top_log_probs.gather(2, rollout.response_ids[..., None])[..., 0]
    assert torch.equal(own[valid], rollout.log_probs[valid])


def test_top_k_cells_are_the_likeliest_of_the_sampling_policy(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    full = sample(policy, ragged_prompts, 20, 1.0, seeded(), needs="full")
    top = sample(policy, ragged_prompts, 20, 1.0, seeded(), needs="topk", k=4)
    assert full.top_log_probs is not None
    assert top.top_log_probs is not None
    assert torch.equal(top.response_ids, full.response_ids)
    expected = full.top_log_probs.sort(-1, descending=True).values[..., :4]
    assert torch.equal(top.top_log_probs[top.response_mask], expected[top.response_mask])


@pytest.mark.parametrize("generator", [None, seeded()])
def test_logits_that_are_not_finite_are_told(
    policy: Policy, ragged_prompts: list[list[int]], generator: torch.Generator | None
) -> None:
    broken = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[3] = math.nan
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        sample(broken, ragged_prompts, 8, 1.0, generator)


@pytest.mark.parametrize("batch", [None, 2])
def test_the_likeliest_tokens_come_beside_the_samples(
    policy: Policy, ragged_prompts: list[list[int]], batch: int | None
) -> None:
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


def test_greedy_tokens_are_those_of_generate(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    rollout = sample(policy, ragged_prompts, 24, 1.0, None)
    generated = policy.model.generate(
        rollout.prompt_ids,
        attention_mask=rollout.prompt_mask.long(),
        do_sample=False,
        max_new_tokens=24,
        pad_token_id=policy.pad_id,
    )[:, rollout.prompt_ids.shape[1] :]
    width = rollout.response_ids.shape[1]
    assert torch.equal(rollout.response_ids, generated[:, :width])
    assert bool((generated[:, width:] == policy.pad_id).all())


def test_ragged_prompts_give_what_each_gives_alone(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    together = sample(policy, ragged_prompts, 24, 1.0, seeded())
    generator = seeded()  # the rows' random numbers follow one another
    for row, prompt in enumerate(ragged_prompts):
        alone = sample(policy, [prompt], 24, 1.0, generator)
        length = int(together.response_mask[row].sum())
        assert torch.equal(alone.response_ids[0], together.response_ids[row, :length])
        torch.testing.assert_close(alone.log_probs[0], together.log_probs[row, :length], atol=1e-5, rtol=0)


def test_batches_of_prompts_change_nothing(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    whole = sample(policy, ragged_prompts, 24, 1.0, seeded(), needs="topk", k=3, samples=3)
    parts = sample(policy, ragged_prompts, 24, 1.0, seeded(), needs="topk", k=3, samples=3, batch=3)
    assert torch.equal(whole.prompt_ids, parts.prompt_ids)
    assert torch.equal(whole.prompt_mask, parts.prompt_mask)
    assert torch.equal(whole.response_ids, parts.response_ids)
    assert torch.equal(whole.response_mask, parts.response_mask)
    torch.testing.assert_close(whole.log_probs, parts.log_probs, atol=1e-5, rtol=0)


def test_same_generator_same_rollout_and_another_seed_another(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    first, again, other = (sample(policy, ragged_prompts, 24, 1.0, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first.response_ids, again.response_ids)
    assert torch.equal(first.log_probs, again.log_probs)
    assert first.response_ids.shape != other.response_ids.shape or not torch.equal(
        first.response_ids, other.response_ids
    )


def test_a_row_ends_with_its_end_of_sequence_token(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    rollout = sample(policy, ragged_prompts, 24, 1.0, seeded(), samples=8)
    lengths = rollout.response_mask.sum(1)
    assert len(lengths.unique()) > 3, "rows must stop at different times for this test to mean anything"
    for ids, mask, length in zip(rollout.response_ids, rollout.response_mask, lengths, strict=True):
        assert mask.tolist() == [True] * length + [False] * (len(mask) - length)
        ends = (ids[:length] == policy.eos_id).nonzero()[:, 0].tolist()
        assert ends == [length - 1] or (ends == [] and length == 24)
        assert bool((ids[length:] == policy.pad_id).all())
    assert bool((rollout.log_probs[~rollout.response_mask] == 0).all())


def test_the_mask_comes_from_lengths_where_padding_is_the_end_token(
    policy: Policy, ragged_prompts: list[list[int]]
) -> None:
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    rollout = sample(policy, ragged_prompts, 24, 1.0, seeded(), samples=8)
    stopped = rollout.response_mask.sum(1) < 24
    last = rollout.response_mask.sum(1) - 1
    assert bool(stopped.any())
    assert bool((rollout.response_ids[stopped, last[stopped]] == policy.eos_id).all())
    assert bool(rollout.response_mask[stopped, last[stopped]].all())


def test_tokens_follow_their_probabilities() -> None:
    log_p = torch.tensor([0.5, 0.0, 0.3, 0.2]).log()
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = inverse_cdf(log_p.expand(1000, 4), grid).bincount(minlength=4)
    assert counts.tolist() == [500, 0, 300, 200]


def test_select_drops_shared_padding_only(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    rollout = sample(policy, ragged_prompts, 24, 1.0, seeded(), needs="full")
    part = rollout.rows(torch.tensor([0, 2])).trim()
    assert part.prompt_ids.shape[1] == max(len(ragged_prompts[0]), len(ragged_prompts[2]))
    assert part.response_ids.shape[1] == int(rollout.response_mask[[0, 2]].sum(1).max())
    before = response_log_probs(policy, rollout, 1.0).log_probs[[0, 2]][rollout.response_mask[[0, 2]]]
    after = response_log_probs(policy, part, 1.0).log_probs[part.response_mask]
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


def test_log_probs_are_float32_under_autocast(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    lower = dataclasses.replace(policy, autocast=torch.bfloat16)
    rollout = sample(lower, ragged_prompts, 12, 1.0, seeded(), needs="full")
    scores = response_log_probs(lower, rollout, 1.0, "full")
    assert rollout.log_probs.dtype == scores.log_probs.dtype == torch.float32
    assert rollout.top_log_probs is not None
    total = rollout.top_log_probs.exp().sum(-1)[rollout.response_mask]
    torch.testing.assert_close(total, torch.ones_like(total))


def test_entropy_and_gradient(policy: Policy, ragged_prompts: list[list[int]]) -> None:
    rollout = sample(policy, ragged_prompts, 12, 1.0, seeded(), needs="full")
    scores = response_log_probs(policy, rollout, 1.0, "full")
    assert scores.log_probs.requires_grad
    assert not scores.entropy.requires_grad
    assert scores.top_log_probs is not None
    assert not scores.top_log_probs.requires_grad
    assert bool((scores.entropy[rollout.response_mask] <= math.log(15) + 1e-6).all())
    expected = torch.distributions.Categorical(logits=scores.top_log_probs).entropy()
    torch.testing.assert_close(scores.entropy, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [[3], []]}, "no prompt may be empty"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"max_new_tokens": 0}, "max_new_tokens >= 1"),
    ],
)
def test_bad_requests(policy: Policy, change: dict[str, object], message: str) -> None:
    request: dict[str, object] = {"prompts": [[3]], "max_new_tokens": 4, "temperature": 1.0, "generator": None}
    with pytest.raises(ValueError, match=message):
        sample(policy, **{**request, **change})  # type: ignore[arg-type]


def test_scoring_top_k_needs_a_top_k_rollout(policy: Policy) -> None:
    rollout: Rollout = sample(policy, [[3, 4]], 4, 1.0, seeded())
    with pytest.raises(ValueError, match="sampled with needs='topk'"):
        response_log_probs(policy, rollout, 1.0, "topk")
