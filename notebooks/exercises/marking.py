"""What each exercise asks, and how an answer is tried: what is wrong is said, the right answer is not."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Judge = Callable[[Any], None]
Function = Callable[..., Any]


class Wrong(Exception):
    """What is wrong with an answer, as a sentence that does not give the right one away."""


@dataclass(frozen=True)
class Exercise:
    """asked: what an answer is, one line. judge: called with an answer, raises `Wrong` unless it is right."""

    asked: str
    judge: Judge


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, asked: str) -> Callable[[Judge], Judge]:
    """Decorate the judge of exercise `name`: chapter, dot, number."""

    def register(judge: Judge) -> Judge:
        EXERCISES[name] = Exercise(asked, judge)
        return judge

    return register


def check(name: str, answer: Any) -> None:
    """Print `verdict(name, answer)`."""
    print(verdict(name, answer))


def verdict(name: str, answer: Any) -> str:
    """Whether `answer` solves the exercise, and if not, what is wrong with it, in a sentence or two.

    answer: a number, a list or a function, as the exercise asks; `...` for none, which tells what is asked.

    Raises:
        KeyError: there is no exercise of this name; it names those that there are.
    """
    if name not in EXERCISES:
        raise KeyError(f"there is no exercise {name!r}, but {', '.join(EXERCISES)}")
    found = EXERCISES[name]
    if answer is ...:
        return f"{name}: write your answer in the place of the dots. {found.asked}"
    try:
        found.judge(answer)
    except Wrong as wrong:
        return f"{name}: not yet. {wrong}"
    return f"{name}: right."


def number(name: str, asked: str, right: Any, otherwise: str, *foreseen: tuple[Any, str]) -> None:
    """Exercise `name` asks for a number, or a list of them, to three digits.

    foreseen: wrong answers, each with a hint; otherwise: the hint of all others, and of what is no number.
    """

    @exercise(name, asked)
    def judge(answer: Any) -> None:
        for wrong, hint in foreseen:
            if same(answer, wrong, rtol=1e-3):
                raise Wrong(hint)
        if not same(answer, right, rtol=1e-3):
            raise Wrong(otherwise)


def function(name: str, asked: str, right: Function, *hints: Any) -> None:
    """Exercise `name` asks for a function that gives what `right` gives.

    hints: each what to think of, and the cases (arguments) that show it; of the first that differs the hint is told.
    """

    @exercise(name, asked)
    def judge(answer: Any) -> None:
        if not callable(answer):
            raise Wrong(f"A function is asked for, not {answer!r:.40}.")
        for hint, case in ((hint, case) for hint, *cases in hints for case in cases):
            told = ", ".join(f"{np.asarray(argument).tolist()}" for argument in case)
            try:
                given = answer(*copy.deepcopy(case))  # it may change them
            except Exception as error:
                raise Wrong(f"Called with ({told}) it fails: {type(error).__name__}: {error}") from error
            if given is None or given is ...:
                raise Wrong("It returns nothing yet.")
            if not same(given, right(*case), rtol=1e-6):
                raise Wrong(f"{hint} Try ({told}).")


def same(answer: Any, right: Any, rtol: float) -> bool:
    """Equal shapes and numbers; nan equals nan."""
    try:
        given, wanted = np.asarray(answer, float), np.asarray(right, float)
    except (TypeError, ValueError):
        return False
    return given.shape == wanted.shape and np.allclose(given, wanted, rtol=rtol, atol=1e-9, equal_nan=True)
