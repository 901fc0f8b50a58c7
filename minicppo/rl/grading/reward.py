"""The reward of a mathematics response: 1 if the answer it states is right, else 0, and why.

Nothing that a response says can raise an error or cost more than a few seconds of computing.
"""

import importlib.util
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any

from minicppo.rl.grading.answers import same_answer
from minicppo.rl.grading.confined import Unchecked, faults
from minicppo.rl.grading.extraction import extract_answer
from minicppo.text import install


class Outcome(StrEnum):
    """What became of a response. All but `RIGHT` score 0."""

    RIGHT = "right"
    WRONG = "wrong"
    MISSING = "missing"  # no `Answer:` line and no box near the end
    UNREADABLE = "unreadable"  # not mathematics, unbalanced, too long
    TIMEOUT = "timeout"  # not compared within the limit
    DIED = "died"  # the comparison ran out of memory or crashed
    MALFORMED = "malformed"  # not in the form that its task asks for


MALFORMED = frozenset(set(Outcome) - {Outcome.RIGHT, Outcome.WRONG})


def require_math_verify() -> None:
    """Raises ModuleNotFoundError, naming what to install, where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:  # it is the worker that imports it
        raise ModuleNotFoundError(f"checking mathematical answers needs the package 'math-verify': {install('math')}")


def judge_response(response: str, answer: str) -> Outcome:
    """Compare the answer that a response states with the right one.

    >>> judge_response("6 * 7 is 42.\\nAnswer: 42", "42"), judge_response("42", "42")
    (<Outcome.RIGHT: 'right'>, <Outcome.MISSING: 'missing'>)
    """
    stated = extract_answer(response)
    outcome = Outcome.MISSING if stated is None else _compare(answer, stated)
    if outcome in (Outcome.TIMEOUT, Outcome.DIED):
        faults[str(outcome)] += 1
    return outcome


@lru_cache(maxsize=16384)  # the samples to one problem repeat themselves
def _compare(gold: str, answer: str) -> Outcome:
    try:
        same = same_answer(gold, answer)
    except Unchecked as fault:
        return Outcome.TIMEOUT if str(fault) == "timeout" else Outcome.DIED
    return {True: Outcome.RIGHT, False: Outcome.WRONG, None: Outcome.UNREADABLE}[same]


def score_response(response: str, answer: str) -> float:
    """1.0 if the stated answer is right, else 0.0."""
    return float(judge_response(response, answer) is Outcome.RIGHT)


def math_reward(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float]:
    """A reward for TRL, `reward_funcs=math_reward`: of texts or the last of chat messages, with a column `answer`,
    of texts or numbers."""
    texts = [each if isinstance(each, str) else str(each[-1]["content"]) for each in completions]
    return [score_response(text, str(right)) for text, right in zip(texts, answer, strict=True)]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, float]:
    """A custom reward for verl, which logs every key: `score`, `acc`, and whether the answer was `malformed`."""
    outcome = judge_response(solution_str, str(ground_truth))
    right = float(outcome is Outcome.RIGHT)
    return {"score": right, "acc": right, "malformed": float(outcome in MALFORMED)}
