"""The three small tasks for a pretrained model: what they ask, and how they grade."""

import dataclasses
import random

import pytest

from minicppo.rl.tasks import make_task


@pytest.mark.parametrize(
    ("name", "response", "score", "well_formed"),
    [
        ("letter-count", "2", 1, True),
        ("letter-count", "It occurs 2 times.", 1, False),
        ("letter-count", "two", 0, False),
        ("letter-count", "3", 0, True),
        ("max-of-three", " 2 ", 1, True),
        ("max-of-three", "Of 1, 2 and 0 it is 2", 1, False),
        ("max-of-three", "Of 2, 1 and 0", 0, False),  # the last number counts
        ("parity", "Even.", 1, True),
        ("parity", "It is even", 1, False),
        ("parity", "even or odd", 0, False),
        ("parity", "odd", 0, True),
        ("parity", "evening", 0, False),
    ],
)
def test_small_tasks_grade(name, response, score, well_formed):
    task = make_task(name)
    problem = dataclasses.replace(task.problem(random.Random(0)), answer="even" if name == "parity" else "2")
    assert task.score(problem, response) == score
    assert task.well_formed(problem, response) is well_formed


def test_small_tasks_answer_their_own_questions():
    rng = random.Random(0)
    counts = set()
    for _ in range(300):
        problem = make_task("letter-count").problem(rng)
        counts.add(problem.answer)
        assert problem.data["word"].count(problem.data["letter"]) == int(problem.answer)
        problem = make_task("max-of-three").problem(rng)
        assert problem.answer == str(max(problem.data["numbers"]))
        assert len(set(problem.data["numbers"])) == 3
        problem = make_task("parity").problem(rng)
        assert problem.answer == ("odd" if problem.data["n"] % 2 else "even")
    assert counts == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("name", "option"), [("letter-count", "syllables"), ("max-of-three", "figures"), ("parity", "high")]
)
def test_small_tasks_refuse_sizes_that_make_no_sense(name, option):
    with pytest.raises(ValueError, match=f"{name}: {option} = 0 is"):
        make_task(name, **{option: 0})
