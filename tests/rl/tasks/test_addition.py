"""Small sums: the checker, the split that knows 3 + 4 is 4 + 3, and a policy from scratch."""

import random

import pytest

from minicppo.rl.config import ModelConfig
from minicppo.rl.policy import build_policy
from minicppo.rl.tasks import Problem, is_held_out, make_task, sample_problems


@pytest.fixture
def task():
    return make_task("addition")


def test_the_answer_is_the_sum_of_numbers_in_range(task):
    problems = [task.problem(random.Random(i)) for i in range(500)]
    assert {problem.data[name] for problem in problems for name in "ab"} == set(range(1, 20))
    assert all(int(problem.answer) == problem.data["a"] + problem.data["b"] for problem in problems)


@pytest.mark.parametrize(
    ("response", "score", "well_formed"),
    [
        ("12", 1, True),
        (" 12\n", 1, True),
        ("5 + 7 = 12.", 1, False),
        ("The answer is 012", 1, False),
        ("12 is 5 + 7", 0, False),  # the last number counts
        ("112", 0, True),
        ("1 2", 0, False),
        ("twelve", 0, False),
        ("", 0, False),
        ("1" * 5000, 0, True),
    ],
)
def test_the_last_whole_number_counts(task, response, score, well_formed):
    problem = Problem("What is 5 + 7?", "12")
    assert task.score(problem, response) == score
    assert task.well_formed(problem, response) is well_formed


def test_a_sum_and_its_mirror_image_are_in_one_split(task):
    pairs = {}
    for seed in range(3000):
        problem = task.problem(random.Random(seed))
        pair = frozenset((problem.data["a"], problem.data["b"]))
        pairs.setdefault(pair, set()).add(is_held_out(problem, task.held_out_fraction))
    assert all(len(sides) == 1 for sides in pairs.values())
    assert 0.15 < sum(sides == {True} for sides in pairs.values()) / len(pairs) < 0.35
    held_out = sample_problems(task, 48, random.Random(0), "test", unique=True)
    assert len({p.content for p in held_out}) == 48  # 3 + 4 and 4 + 3 are one problem


def test_demonstrations_are_right_or_wrong_as_asked(task):
    rng = random.Random(0)
    for _ in range(200):
        problem = task.problem(rng)
        assert task.score(problem, task.demonstration(problem, rng, error_rate=0.0)) == 1
        wrong = task.demonstration(problem, rng, error_rate=0.999999)
        assert task.score(problem, wrong) == 0
        assert task.well_formed(problem, wrong)
        assert 2 <= int(wrong) <= 38


def test_a_policy_from_scratch_reads_and_writes_it():
    task = make_task("addition", prompt="{a}+{b}=")
    assert task.alphabet == "+0123456789="
    policy = build_policy(ModelConfig(), task, seed=0)
    prompt = task.problem(random.Random(0)).prompt
    assert policy.decode(policy.encode(prompt)) == prompt


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("addition", {"low": 5, "high": 5}, "low = 5 and high = 5"),
        ("addition", {"low": -1}, "0 <= low < high"),
        ("addition", {"prompt": "{a} plus?"}, "must contain"),
        ("addition", {"hihg": 9}, "'high'"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **options)
