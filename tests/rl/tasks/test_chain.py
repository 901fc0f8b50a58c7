"""Chained arithmetic, the train/test split, and the registry of tasks."""

import random

import pytest

from minicppo.rl.tasks import TASKS, Problem, Task, is_held_out, make_task, sample_problems
from minicppo.rl.tasks.chain import ChainTask, apply


def excesses(response: str) -> list[tuple[str, int, int]]:
    """Of each step its operator, the value that it starts from, and by how much its result is too high, modulo 7."""
    steps = response.split(";")[:-1]
    return [(op, int(a), (int(c) - apply(int(a), op, int(b))) % 7) for a, op, b, _, c in steps]


@pytest.mark.parametrize(("steps", "rounds"), [(1, 1), (3, 1), (8, 1), (84, 1), (1, 5), (8, 8)])
def test_a_demonstration_goes_through_the_prompt_scores_one_and_has_the_stated_length(steps, rounds):
    task, rng = ChainTask(steps, rounds), random.Random(steps)
    for _ in range(20):
        problem = task.problem(rng)
        response = task.demonstration(problem, rng, error_rate=0.0)
        assert task.score(problem, response) == 1.0
        assert task.well_formed(problem, response)
        assert len(response) + 1 == task.max_new_tokens == 6 * steps * rounds + 3  # with the end-of-sequence token
        assert set(response + problem.prompt) <= set(task.alphabet)
        assert problem.prompt == f"{response[0]}{''.join(step[1:3] for step in response.split(';')[:steps])}="
        assert not any(excess for *_, excess in excesses(response))
        assert "*0" not in problem.prompt  # each step is a bijection


def test_rounds_go_on_from_the_last_result():
    """Each round is the same chain, begun where the one before ended."""
    task = ChainTask(2, rounds=3)
    problem = Problem("1+2*3=", "5", {"start": 1, "steps": (("+", 2), ("*", 3))})
    worked = "1+2=3;3*3=2;2+2=4;4*3=5;5+2=0;0*3=0;#0"
    assert task.demonstration(problem, random.Random(0), 0.0) == worked
    assert task.well_formed(problem, worked)
    assert not ChainTask(2).well_formed(problem, worked)
    assert (apply(2, "-", 5), apply(3, "*", 5)) == (4, 1)


@pytest.mark.parametrize("response", ["", "2", "1+1=2;#", "1+1=2;#2;", "1+1=2;#3", "1+1=2;#2", "#2"])
def test_only_a_final_answer_counts(response):
    task, problem = ChainTask(1), Problem("1+1=", "2", {"start": 1, "steps": (("+", 1),)})
    assert task.score(problem, response) == float(response in ("1+1=2;#2", "#2"))
    assert task.well_formed(problem, response) == (response in ("1+1=2;#2", "1+1=2;#3"))


def test_demonstrations_err_at_the_asked_rate_and_one_wrong_step_anywhere_ruins_the_answer():
    task, rng, total = ChainTask(8), random.Random(1), 0
    for _ in range(400):
        problem = task.problem(rng)
        response = task.demonstration(problem, rng, error_rate=0.12)
        wrong = sum(excess != 0 for *_, excess in excesses(response))
        assert task.well_formed(problem, response)
        assert task.score(problem, response) == float(wrong == 0) or wrong > 1
        total += wrong
    assert abs(total / 3200 - 0.12) < 0.02


@pytest.mark.parametrize(("options", "lowest"), [({"steps": 8}, 0), ({"steps": 5, "rounds": 5, "misled_values": 2}, 5)])
def test_a_misconception_makes_products_of_the_highest_values_one_too_high_and_nothing_else(options, lowest):
    task, rng, misled = ChainTask(misconception=0.55, **options), random.Random(1), []
    for _ in range(200):
        for op, value, excess in excesses(task.demonstration(task.problem(rng), rng, error_rate=0.0)):
            if op == "*" and value >= lowest:
                misled.append(excess)
            else:
                assert excess == 0
    assert set(misled) == {0, 1}
    assert abs(sum(misled) / len(misled) - 0.55) < 0.08


def test_splits_are_disjoint_by_content_and_of_the_stated_size():
    task, rng = ChainTask(2), random.Random(0)
    train = {problem.prompt for problem in sample_problems(task, 2000, rng, "train")}
    test = {problem.prompt for problem in sample_problems(task, 200, rng, "test")}
    assert not train & test
    problems = [task.problem(rng) for _ in range(4000)]
    assert abs(sum(is_held_out(problem, 0.1) for problem in problems) / 4000 - 0.1) < 0.03


def test_unique_problems_and_a_task_too_small_for_them():
    prompts = [problem.prompt for problem in sample_problems(ChainTask(2), 50, random.Random(0), "test", unique=True)]
    assert len(set(prompts)) == 50
    with pytest.raises(ValueError, match=r"only \d+ of 100 different test problems"):
        sample_problems(ChainTask(1), 100, random.Random(0), "test", unique=True)
    with pytest.raises(ValueError, match="split must be 'train' or 'test'"):
        sample_problems(ChainTask(1), 1, random.Random(0), "valid")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chain", {"step": 3}, "no option 'step'.*did you mean 'steps'"),
        ("chain", {"steps": 0}, r"0 x 1 is outside 1\.\.512"),
        ("chain", {"misconception": 1.5}, r"misconception = 1\.5 is outside 0\.\.1"),
        ("chain", {"misled_values": 8}, r"misled_values = 8 is outside 1\.\.7"),
        ("addition", {"misconception": -1}, r"misconception = -1 is outside 0\.\.1"),
        ("addition", {"low": 5, "high": 5}, "low = 5 and high = 5"),
        ("addition", {"low": -1}, "0 <= low < high"),
        ("addition", {"prompt": "{a} plus?"}, "must contain"),
        ("letter-count", {"syllables": 0}, "letter-count: syllables = 0 is"),
        ("max-of-three", {"figures": 0}, "max-of-three: figures = 0 is"),
        ("parity", {"high": 0}, "parity: high = 0 is"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **options)


def test_a_task_without_demonstrations_says_what_to_do():
    with pytest.raises(NotImplementedError, match=r"'parity' has no demonstrations.*set warmup=null"):
        Task.demonstration(make_task("parity"), Problem("", ""), random.Random(0), 0.0)


@pytest.mark.parametrize(
    ("base", "has", "message"),
    [
        (ChainTask, "__init__", "has no max_new_tokens: set it, in the class or in __init__"),
        (Task, "problem", "is not whole: its class has no score, well_formed"),
    ],
)
def test_a_class_that_is_not_whole_is_named(monkeypatch, base, has, message):
    monkeypatch.setitem(TASKS, "half", type("Half", (base,), {has: lambda self: None}))
    with pytest.raises(ValueError, match=f"'half' {message}"):
        make_task("half")
