"""The warm-up's cache, its demonstrations, its refusals; and the evaluation it is judged by."""

import pytest
import torch

from minicppo.rl import warmup
from minicppo.rl.evaluate import evaluate, held_out_problems
from minicppo.rl.policy import Policy, save_policy
from minicppo.rl.seeding import derive_seed, generator_for, rng_for
from minicppo.rl.tasks import is_held_out, make_task


def parameters(policy: Policy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()])


def test_a_warm_up_is_trained_once(small_config, tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path))
    short = {"max_steps": 4, "check_every": 5, "anneal": 2}  # the last step is checked too
    config, seen = small_config(warmup=short), []
    first = warmup.initial_policy(config, config.make_task(), lambda step, accuracy: seen.append(step))
    assert seen == list(range(1, 7))
    assert [path.name for path in tmp_path.iterdir()] == [f"warmup-{warmup.warmup_key(config)}"]  # no scratch left
    monkeypatch.setattr(warmup, "_train", None)
    other_run = small_config(warmup=short, seed=5, method={"name": "grpo"}, train={"lr": 1e-4})
    again = warmup.initial_policy(other_run, other_run.make_task())  # none of it concerns the warm-up
    assert torch.equal(parameters(first), parameters(again))


@pytest.mark.parametrize(
    "change",
    [
        {"warmup": {"error_rate": 0.2}},
        {"warmup": {"seed": 1}},
        {"warmup": {"anneal": 11}},
        {"model": {"layers": 1}},
        {"task": {"name": "chain", "options": {"steps": 2}}},
        {"rollout": {"max_new_tokens": 5}},
    ],
)
def test_all_that_determines_a_warm_up_is_in_its_key(small_config, change):
    assert warmup.warmup_key(small_config(**change)) != warmup.warmup_key(small_config())


@pytest.mark.parametrize("changed", ["weights", "config", "tokenizer", "nothing", "place"])
def test_a_warm_up_goes_by_the_content_of_its_model(changed, small_config, policy, tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    save_policy(policy, folder)
    first = warmup.warmup_key(small_config(model={"path": str(folder)}))
    if changed == "weights":
        policy.model.get_input_embeddings().weight.data[0, 0] += 1e-7
        save_policy(policy, folder)
    elif changed == "place":
        folder = folder.rename(tmp_path / "elsewhere")
    elif changed != "nothing":
        file = folder / {"config": "config.json", "tokenizer": "tokenizer.json"}[changed]
        file.write_text(file.read_text() + " ")
    again = warmup.warmup_key(small_config(model={"path": str(folder)}))
    assert (first == again) == (changed in ("nothing", "place"))


def test_without_a_warm_up_the_run_seed_makes_the_weights(small_config):
    first, second = (small_config(warmup=None, seed=seed) for seed in (0, 1))
    weights = [parameters(warmup.initial_policy(config, config.make_task())) for config in (first, second)]
    assert not torch.equal(*weights)


def test_demonstrations_are_padded_around_their_mask(policy):
    task = make_task("chain", steps=2)
    batch = warmup.demonstrations(policy, task, 8, rng_for(0, "test"), 0.1)
    assert batch.response_mask.sum(1).tolist() == [15] * 8
    assert (batch.response_ids[:, -1] == policy.eos_id).all()
    text = policy.decode(batch.prompt_ids[0][batch.prompt_mask[0]].tolist())
    assert text.endswith("=")


@pytest.mark.parametrize("window", [4, 15, 18])
def test_demonstrations_fit_into_the_window(window, policy):
    policy.model.config.max_position_embeddings = window
    with pytest.raises(ValueError, match=rf"do not fit into the {window} positions of qwen3"):
        warmup.demonstrations(policy, make_task("chain", steps=2), 8, rng_for(0, "test"), 0.1)


def test_evaluation_is_held_out_and_repeatable(small_config, policy):
    config = small_config()
    task = config.make_task()
    problems = held_out_problems(task, config)
    assert len({problem.prompt for problem in problems}) == 6
    assert all(is_held_out(problem, task.held_out_fraction) for problem in problems)
    assert evaluate(policy, task, config) == evaluate(policy, task, config)
    batched = evaluate(policy, task, small_config(eval={"batch": 3}))
    assert batched.accuracy == evaluate(policy, task, config).accuracy


def test_streams_of_different_purposes_differ():
    seeds = {derive_seed(s, p, i) for s in range(3) for p in ("rollout", "shuffle") for i in range(3)}
    assert len(seeds) == 18
    assert torch.equal(torch.rand(3, generator=generator_for(1, "a")), torch.rand(3, generator=generator_for(1, "a")))
