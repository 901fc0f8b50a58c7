"""The one record of a rollout: its rows, columns and joins, what grading adds, what the certificate makes of it."""

import random
from dataclasses import replace

import pytest
import torch

from minicppo.rl.config import load_config
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Rollout, grade, join
from minicppo.rl.sampling import sample
from minicppo.rl.tasks import make_task
from minicppo.rl.trainer import certificate_row


def graded(policy: Policy, prompts: list[list[int]]) -> Rollout:
    """Three responses to each of four problems."""
    task, generator = make_task("chain", steps=1), torch.Generator().manual_seed(0)
    problems = [task.problem(random.Random(i)) for i in range(len(prompts))]
    return grade(policy, task, problems, sample(policy, prompts, 24, 1.0, generator, "topk", k=4, samples=3))


def assert_same(first: Rollout, second: Rollout) -> None:
    for name, value in vars(first).items():
        other = vars(second)[name]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


def test_grading_reads_every_row_and_repeats_its_problem(policy, ragged_prompts):
    rollout, task = graded(policy, ragged_prompts), make_task("chain", steps=1)
    for i, (problem, text) in enumerate(zip(rollout.problems, rollout.texts, strict=True)):
        assert problem == rollout.problems[i // 3 * 3]
        assert text == policy.decode(rollout.response_ids[i, rollout.response_mask[i]].tolist())
        assert rollout.rewards[i] == task.score(problem, text)
        assert bool(rollout.well_formed[i]) == task.well_formed(problem, text)


def test_trimming_drops_shared_padding_only(policy, ragged_prompts):
    rollout, chosen = graded(policy, ragged_prompts), torch.tensor([0, 7])
    part = rollout.rows(chosen).trim()
    assert part.prompt_ids.shape[1] == max(len(ragged_prompts[0]), len(ragged_prompts[2]))
    assert part.response_ids.shape[1] == int(rollout.response_mask[chosen].sum(1).max())
    before = response_log_probs(policy, rollout, 1.0).log_probs[chosen][rollout.response_mask[chosen]]
    after = response_log_probs(policy, part, 1.0).log_probs[part.response_mask]
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    assert part.texts == [rollout.texts[0], rollout.texts[7]]


def test_parts_join_to_the_whole(policy, ragged_prompts):
    rollout = graded(policy, ragged_prompts)
    assert_same(join(list(rollout.split(5)), policy.pad_id), rollout)
    assert_same(join([part.trim() for part in rollout.split(2)], policy.pad_id), rollout)
    flags = torch.arange(12) % 3 == 0
    assert_same(rollout.rows(flags), rollout.rows(flags.nonzero()[:, 0]))


def test_the_rules_read_it_beside_the_policy_of_now(policy, ragged_prompts):
    rollout = replace(graded(policy, ragged_prompts), advantages=torch.arange(12.0))
    found = response_log_probs(policy, rollout, 1.0, rollout.needs)
    batch = rollout.token_batch(found.log_probs, found.top_log_probs)
    assert torch.equal(batch.mask, rollout.response_mask)
    for ours, given in ((batch, found.log_probs), (batch.top, found.top_log_probs)):
        assert torch.equal(ours.log_probs[batch.mask], given.detach()[batch.mask])
    assert torch.equal(batch.rollout_log_probs[batch.mask], rollout.log_probs[batch.mask])
    assert batch.top.ids is rollout.top_ids
    assert rollout.token_batch(found.log_probs).top is None


@pytest.mark.parametrize("needs", ["log_probs", "full"])
def test_an_unchanged_policy_has_no_gain_and_a_changed_one_the_same_in_parts(policy, ragged_prompts, needs):
    rollout = sample(policy, ragged_prompts, 12, 1.0, torch.Generator().manual_seed(0), needs, samples=6)
    rewards = (torch.arange(24) % 3 == 0).double()
    rollout = replace(rollout, rewards=rewards, advantages=rewards.float())
    whole, parts = (load_config("learn", ["rollout.group_size=6", f"train.micro_batch={rows}"]) for rows in (24, 5))
    row = certificate_row(policy, rollout, whole)
    assert row["certificate/surrogate"] == pytest.approx(0, abs=1e-4)
    assert row["certificate/divergence"] == pytest.approx(0, abs=1e-4)
    assert row["certificate/groups"] == 4
    assert row["certificate/responses"] == 24
    with torch.no_grad():
        next(policy.model.parameters()).mul_(0.97)
    row = certificate_row(policy, rollout, whole)
    assert row["certificate/divergence"] > 1e-3
    assert certificate_row(policy, rollout, parts) == pytest.approx(row, abs=1e-4)
