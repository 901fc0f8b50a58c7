"""The exercises: each solution passes, wrong answers do not, and no hint gives the right one away."""

import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from notebooks.exercises import EXERCISES, check, verdict
from tests.notebooks.wrong_answers import WRONG

SOLUTIONS = Path(__file__).resolve().parents[2] / "notebooks" / "solutions"


def solution(name):
    chapter, number = name.split(".")
    return runpy.run_path(str(SOLUTIONS / f"{chapter.zfill(2)}.py"))[f"answer_{number}"]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_is_right(name):
    assert verdict(name, solution(name)) == f"{name}: right."


@pytest.mark.parametrize("name", EXERCISES)
def test_wrong_answers_are_told_what_is_wrong(name):
    assert len(WRONG[name]) >= 3
    right = solution(name)
    for answer in WRONG[name]:
        told = verdict(name, answer)
        assert told.startswith(f"{name}: not yet. "), answer
        if not callable(right):
            assert not any(text in told for text in as_written(right))


def as_written(answer):
    """How a hint would write the answer."""
    if np.ndim(answer) == 0:
        return [f"{answer:.2g}", f"{answer:.3g}"] if isinstance(answer, float) else [str(answer)]
    return [str(answer), str([bool(x) for x in answer]), str([int(bool(x)) for x in answer])]


@pytest.mark.parametrize("name", EXERCISES)
def test_dots_are_an_answer_still_to_be_written(name, capsys):
    check(name, ...)
    assert EXERCISES[name].asked in capsys.readouterr().out


def test_each_chapter_has_three():
    chapters = Counter(name.split(".")[0] for name in EXERCISES)
    assert set(chapters.values()) == {3}
    assert set(WRONG) == set(EXERCISES)


def test_an_unknown_exercise_names_those_that_there_are():
    with pytest.raises(KeyError, match=r"there is no exercise '9\.1', but 0\.1, 0\.2"):
        check("9.1", 1)


def test_a_failing_function_is_told_where_it_fails():
    assert "fails: ZeroDivisionError" in verdict("4.3", lambda divergence, floor: 1 / 0)


def test_wrong_answers_are_not_all_told_the_same():
    assert len({verdict("2.3", answer).split(" Try ")[0] for answer in WRONG["2.3"]}) >= 8
