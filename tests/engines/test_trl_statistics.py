"""Statistics are of whole updates, mismatch is not drift, and a first rollout of another policy stops the run."""

import math
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from datasets import Dataset

from minicppo.engines.trl_statistics import Responses, joined, statistics, wrong_anchor
from minicppo.rules import TokenBatch, get_method
from minicppo.rules.rows import take
from tests.engines.stale import TEMPERATURE, tiny_policy
from tests.engines.test_trl_features import ACCUMULATED, PROMPTS, rolled, sums
from tests.engines.trl_setup import feature, refused, trainer_of


def responses(n: int, width: int, fresh: bool = True, gap: float = 0.1, seed: int = 0) -> Responses:
    """n responses of up to `width` tokens."""
    generator = torch.Generator().manual_seed(seed)
    mu = -torch.rand(n, width, generator=generator) - 0.5
    pi = (mu + gap * torch.randn(n, width, generator=generator)).clamp(max=0)
    mask = torch.arange(width) < torch.randint(1, width + 1, (n, 1), generator=generator)
    batch = TokenBatch(pi, mu, torch.randn(n, generator=generator), mask)
    flags, ids = torch.zeros(n, dtype=torch.bool), torch.zeros(n, width, dtype=torch.long)
    return Responses(batch, get_method("cppo")(batch), ids, torch.zeros(n), ids[:, 0], flags | fresh, flags)


@feature("logs: the same for any split into micro-batches", "works")
@pytest.mark.parametrize("split", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_statistics_do_not_depend_on_the_split(split, tmp_path):
    keys, logged = ("mask/", "div/", "budget/", "ratio/", "weight/", "prefix/", "drift", "mismatch/"), []
    for parts in (1, split):
        size = {"per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
        settings = {"method": "cppo-topk", "max_steps": 2, "logging_steps": 1, "num_generations": 4, **size}
        trainer = trainer_of(tiny_policy(), tmp_path, steps_per_generation=2 * parts, **settings)
        trainer.train()
        logged += [[{k: v for k, v in row.items() if k.startswith(keys)} for row in trainer.state.log_history[:-1]]]
    for found, row in zip(*logged, strict=True):
        assert found == pytest.approx(row, rel=1e-3, abs=1e-6)


@feature("logs: responses emptied by `mask_truncated_completions` leave the means", "works")
def test_responses_without_tokens_count_nowhere():
    some = responses(3, 5)
    nothing = take(some, torch.tensor([0]))
    nothing.batch.response_mask.zero_()
    empty = Responses(nothing.batch, get_method("cppo")(nothing.batch), *list(vars(nothing).values())[2:])
    assert statistics(joined([some, empty])) == statistics(some)


def test_fresh_and_stale_responses_are_told_apart():
    fresh, stale = responses(3, 5, gap=0.001), responses(2, 7, fresh=False, seed=1)
    found = statistics(joined([fresh, stale]))
    alone = [statistics(fresh), statistics(stale)]
    assert found["mismatch/drift"] == alone[0]["mismatch/drift"] < 0.01 < found["drift"] == alone[1]["drift"]
    assert not {"drift", "mismatch/mask/frac"} & alone[0].keys()
    assert found["mask/frac"] == pytest.approx(statistics(joined([stale, fresh]))["mask/frac"])


KINDS = ["cppo-topk", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "cppo-exact"))]  # of rollouts


@feature("logs: mismatch and drift apart where a rollout ends within an update", "works")
@pytest.mark.parametrize("method", KINDS)
def test_what_an_update_has_passed_is_drift(method, tmp_path):
    given = {"train_dataset": Dataset.from_dict({"prompt": PROMPTS}), "reward_funcs": sums, "method": method}
    given |= {"steps_per_generation": 3, "max_steps": 3, "logging_steps": 1, **ACCUMULATED}
    trainer = trainer_of(tiny_policy(), tmp_path, **given)
    trainer.train()
    rows = trainer.state.log_history[:-1]
    assert [("mismatch/drift" in row, "drift" in row) for row in rows] == [(True, False), (True, True), (False, True)]
    assert max(row.get("mismatch/drift", 0) for row in rows) < 1e-5
    assert rows[2]["drift"] > 1e-3
    assert all(row["mask/frac"] >= 0 and not any(key.startswith("clip_ratio/") for key in row) for row in rows)


def other(prompts: list[str], trainer: Any, temperature: float, change: Any) -> dict[str, Any]:
    """A rollout_func whose log-probs are not the policy's."""
    found = rolled(prompts, trainer, temperature)
    return {**found, "logprobs": [change(row) for row in found["logprobs"]]}


OTHERS = [
    refused("a rollout at another temperature", 0.3, lambda row: row, "mu is surer|another temperature"),
    refused("a rollout whose missing log-probs are 0", TEMPERATURE, lambda row: [0.0] * len(row), "log-probs of 0"),
    refused("a truncated rollout (top-p, a grammar)", TEMPERATURE, lambda row: [x / 2 for x in row], "mu is surer"),
    refused("a rollout of another policy from the second token", TEMPERATURE,
            lambda row: row[:1] + [min(x + 0.7 * (-1) ** t, 0) for t, x in enumerate(row[1:])], "from the second"),
]  # fmt: skip


@pytest.mark.parametrize(("temperature", "change", "message"), OTHERS)
def test_a_first_rollout_of_another_policy_stops_the_run(temperature, change, message, tmp_path):
    def rollout_func(prompts, trainer):
        return other(prompts, trainer, temperature, change)

    trainer = trainer_of(tiny_policy(), tmp_path, rollout_func=rollout_func, max_steps=1)
    with pytest.raises(ValueError, match=rf"a token apart .* in response \d.*Likely: .*({message}).*mismatch_limit=N"):
        trainer.train()


@feature("`mismatch_limit`: a rollout that is another policy's on purpose", "works")
def test_a_limit_of_one_s_own_and_a_warning_later_on(tmp_path):
    def rollout_func(prompts, trainer):
        later = trainer.state.global_step >= first
        return other(prompts, trainer, TEMPERATURE, lambda row: [x / 2 for x in row] if later else row)

    first = 1
    trainer = trainer_of(tiny_policy(), tmp_path, rollout_func=rollout_func, max_steps=2)
    with pytest.warns(UserWarning, match=r"update 2: log pi and log mu are .* apart"):
        trainer.train()
    assert sorted(trainer.newest.group.tolist()) == [0, 0, 1, 1]  # what a recorder finds
    assert trainer.newest.rewards.shape == (4,)
    first = 0
    trainer_of(tiny_policy(), tmp_path, rollout_func=rollout_func, max_steps=1, mismatch_limit=math.inf).train()


def test_padding_taken_in_two_ways_is_seen():
    part = responses(4, 6, gap=1e-4)
    shifted = responses(2, 6, gap=0.5)
    padded = torch.tensor([True, True])
    both = joined([part, Responses(**{**vars(shifted), "padded": padded})])
    assert "padding before them alone" in wrong_anchor(both, 1e-3)
    assert wrong_anchor(part, 1e-3) is None
