"""What a verifiable task must offer: problems, a checker, and (for from-scratch policies) demonstrations."""

import hashlib
import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from minicppo.rl.grading.confined import Unchecked, faults
from minicppo.text import nearest

Split = Literal["train", "test"]
PATIENCE = 10_000  # draws in a row that are of no use


@dataclass(frozen=True)
class Problem:
    """One question. The policy sees nothing but the prompt."""

    prompt: str
    answer: str
    data: Mapping[str, Any] = field(default_factory=dict)  # what the checker needs besides
    content: str | None = None  # the same for problems that differ in wording or order alone; None: the prompt

    @property
    def identity(self) -> str:
        """What decides about its split."""
        return self.content or self.prompt


class Task(ABC):
    """A family of problems with a checker."""

    name: str  # what `make_task` knows it by, once it is registered
    alphabet: str = ""  # the characters that a policy from scratch needs; "" if only pretrained policies can try it
    max_new_tokens: int  # longest response worth sampling, end-of-sequence token included
    held_out_fraction: float = 0.1  # share of all problems kept for evaluation, see `is_held_out`

    @abstractmethod
    def problem(self, rng: random.Random) -> Problem:
        """A fresh problem; all its randomness comes from `rng`."""

    def draw(self, rng: random.Random, split: Split) -> Problem | None:
        """A problem of that split, or None if the one drawn belongs to the other: decided by its content."""
        candidate = self.problem(rng)
        return candidate if is_held_out(candidate, self.held_out_fraction) == (split == "test") else None

    @abstractmethod
    def score(self, problem: Problem, response: str) -> float:
        """The reward in [0, 1] of a decoded response (without its end-of-sequence token)."""

    @abstractmethod
    def well_formed(self, problem: Problem, response: str) -> bool:
        """Whether the response has the asked form, right or wrong."""

    def demonstration(self, problem: Problem, rng: random.Random, error_rate: float) -> str:
        """A response to imitate in the supervised warm-up, each step wrong with probability `error_rate`."""
        raise NotImplementedError(
            f"task {self.name!r} has no demonstrations to warm up on: give a pretrained policy (model.path=...) "
            "and set warmup=null"
        )


TASKS: dict[str, type[Task]] = {}
AnyTask = TypeVar("AnyTask", bound=type[Task])


def register_task(task: AnyTask) -> AnyTask:
    """A class decorator: `make_task` knows the class by its `name` now. Raises ValueError if another has that name."""
    known = TASKS.setdefault(task.name, task)
    if (known.__module__, known.__qualname__) != (task.__module__, task.__qualname__):
        raise ValueError(f"task {task.name!r} is {known.__module__}.{known.__qualname__}: give yours another name")
    TASKS[task.name] = task  # the same one, loaded again
    return task


def make_task(name: str, **options: Any) -> Task:
    """The task of that name, built with these options. Raises ValueError: unknown name or option, or a bad value."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)}")
    parameters = inspect.signature(TASKS[name]).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ValueError(f"task {name!r} has no option {option!r}{nearest(option, parameters)}")
    missing = getattr(TASKS[name], "__abstractmethods__", ())
    if missing:
        raise ValueError(f"task {name!r} is not whole: its class has no {', '.join(sorted(missing))}")
    try:
        task = TASKS[name](**options)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"task.options of {name!r}: {error}") from error
    if not hasattr(task, "max_new_tokens"):
        raise ValueError(
            f"task {name!r} has no max_new_tokens: set it, in the class or in __init__, to the longest response"
        )
    return task


def judged(task: Task, problem: Problem, response: str) -> tuple[float, bool]:
    """Score and form of a response, whatever its checker does.

    An exception about an answer scores 0 and counts in `faults` under its name; so does a score outside [0, 1].
    Raises ModuleNotFoundError: a package that the checker needs: no response could be checked at all.
    """
    try:
        score, well_formed = float(task.score(problem, response)), bool(task.well_formed(problem, response))
    except ModuleNotFoundError:
        raise
    except Exception as error:
        faults[str(error) if isinstance(error, Unchecked) else type(error).__name__] += 1
        return 0.0, False
    if not 0 <= score <= 1:
        faults["OutOfRange"] += 1
        return 0.0, well_formed
    return score, well_formed


def is_held_out(problem: Problem, fraction: float) -> bool:
    """Whether a problem belongs to the test split: decided by a hash of its content, never by order."""
    digest = hashlib.sha256(problem.identity.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def sample_problems(task: Task, n: int, rng: random.Random, split: Split, unique: bool = False) -> list[Problem]:
    """`n` problems of a split, with `unique` all different. Raises ValueError: there are too few, or no such split."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    problems: list[Problem] = []
    seen: set[str] = set()
    for _ in range(n):
        for _ in range(PATIENCE):
            candidate = task.draw(rng, split)
            if candidate and not (unique and candidate.identity in seen):
                break
        else:
            fewer = "eval.problems" if split == "test" else "rollout.prompts"
            raise ValueError(
                f"task {task.name!r} yielded only {len(problems)} of {n} {'different ' if unique else ''}"
                f"{split} problems in {PATIENCE} further tries: lower {fewer}, or let task.options allow more problems"
            )
        problems.append(candidate)
        seen.add(candidate.identity)
    return problems
