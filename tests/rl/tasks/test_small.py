"""The small tasks for a pretrained model: what they ask, how they grade; and sums, which a new policy can try too."""

import dataclasses
import random

import pytest

from minicppo.rl.tasks import is_held_out, make_task, sample_problems
from minicppo.rl.tasks.small import AdditionTask

ANSWERS = {"addition": "12", "parity": "even"}  # to the question that is graded; of the others "2"


@pytest.mark.parametrize(
    ("name", "response", "score", "well_formed"),
    [
        ("addition", " 12\n", 1, True),
        ("addition", "5 + 7 = 12.", 1, False),
        ("addition", "The answer is 012", 1, False),
        ("addition", "12 is 5 + 7", 0, False),  # the last number counts
        ("addition", "112", 0, True),
        ("addition", "102", 0, True),
        ("addition", "", 0, False),
        ("addition", "1" * 5000, 0, True),
        ("letter-count", "2", 1, True),
        ("letter-count", "It occurs 2 times.", 1, False),
        ("max-of-three", "Of 2, 1 and 0", 0, False),
        ("parity", "Even.", 1, True),
        ("parity", "It is even", 1, False),
        ("parity", "even or odd", 0, False),
        ("parity", "odd", 0, True),
        ("parity", "evening", 0, False),
    ],
)
def test_small_tasks_grade(name, response, score, well_formed):
    task = make_task(name)
    problem = dataclasses.replace(task.problem(random.Random(0)), answer=ANSWERS.get(name, "2"))
    assert task.score(problem, response) == score
    assert task.well_formed(problem, response) is well_formed


def test_small_tasks_answer_their_own_questions():
    rng = random.Random(0)
    counts, addends = set(), set()
    for _ in range(300):
        problem = make_task("letter-count").problem(rng)
        counts.add(problem.answer)
        assert problem.data["word"].count(problem.data["letter"]) == int(problem.answer)
        problem = make_task("max-of-three").problem(rng)
        assert problem.answer == str(max(problem.data["numbers"]))
        assert len(set(problem.data["numbers"])) == 3
        problem = make_task("parity").problem(rng)
        assert problem.answer == ("odd" if problem.data["n"] % 2 else "even")
        problem = make_task("addition").problem(rng)
        addends |= {*problem.data.values()}
        assert int(problem.answer) == problem.data["a"] + problem.data["b"]
    assert counts == {"1", "2", "3"}
    assert addends == set(range(1, 20))


def test_a_sum_and_its_mirror_image_are_in_one_split():
    task, pairs = make_task("addition"), {}
    for seed in range(3000):
        problem = task.problem(random.Random(seed))
        pairs.setdefault(frozenset(problem.data.values()), set()).add(is_held_out(problem, task.held_out_fraction))
    assert all(len(sides) == 1 for sides in pairs.values())
    assert 0.15 < sum(sides == {True} for sides in pairs.values()) / len(pairs) < 0.35
    held_out = sample_problems(task, 48, random.Random(0), "test", unique=True)
    assert len({p.content for p in held_out}) == 48  # 3 + 4 and 4 + 3 are one problem


def test_demonstrations_are_right_or_wrong_as_asked_and_of_the_alphabet():
    task, rng = make_task("addition", prompt="{a}+{b}="), random.Random(0)
    assert task.alphabet == "+0123456789="
    for _ in range(200):
        problem = task.problem(rng)
        right, wrong = (task.demonstration(problem, rng, error_rate) for error_rate in (0.0, 0.999999))
        assert (task.score(problem, right), task.score(problem, wrong)) == (1, 0)
        assert task.well_formed(problem, wrong)
        assert 2 <= int(wrong) <= 38
        assert set(problem.prompt + right + wrong) <= set(task.alphabet)


def test_a_forgotten_carry_is_all_that_is_wrong_with_a_sum():
    task, rng = AdditionTask(1, 99, misconception=0.5), random.Random(1)
    for _ in range(300):
        problem = task.problem(rng)
        a, b, shown = problem.data["a"], problem.data["b"], int(task.demonstration(problem, rng, error_rate=0.0))
        assert a + b - shown in {
            10 * units + 100 * tens for units in (0, a % 10 + b % 10 >= 10) for tens in (0, a + b > 89)
        }
    assert AdditionTask(1, 99, misconception=1).added(27, 35, rng) == 52
    assert AdditionTask(1, 99).added(77, 35, rng) == 112
