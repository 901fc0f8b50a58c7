"""What a verifiable task must offer: problems, a checker, and (for from-scratch policies) demonstrations."""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Problem:
    """One question. `prompt` is all that the policy sees; `data` is whatever the checker needs besides.

    `content` is the same for problems that are the same but for their wording or order; None: the prompt itself.
    """

    prompt: str
    answer: str
    data: Mapping[str, Any] = field(default_factory=dict)
    content: str | None = None


class Task(ABC):
    """A family of problems with a checker.

    Attributes:
        name: the name under which `make_task` knows the task.
        alphabet: the characters a policy built from scratch needs; "" if only pretrained policies can try the task.
        max_new_tokens: longest response worth sampling, end-of-sequence token included.
        held_out_fraction: share of all problems kept for evaluation, see `is_held_out`.
    """

    name: str
    alphabet: str = ""
    max_new_tokens: int
    held_out_fraction: float = 0.1

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
        """A response to imitate in the supervised warm-up, each step wrong with probability `error_rate`.

        Raises:
            NotImplementedError: the task has none, so it needs a pretrained policy.
        """
        raise NotImplementedError(
            f"task {self.name!r} has no demonstrations to warm up on: give a pretrained policy (model.path=...) "
            "and set warmup=null"
        )


def is_held_out(problem: Problem, fraction: float) -> bool:
    """Whether a problem belongs to the test split: decided by a hash of its content, never by order."""
    digest = hashlib.sha256((problem.content or problem.prompt).encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def sample_problems(task: Task, n: int, rng: random.Random, split: Split, unique: bool = False) -> list[Problem]:
    """`n` problems of one split, by `task.draw`; with `unique`, no two share their content.

    Raises:
        ValueError: an unknown split, or a task too small to hold `n` (different) problems of this split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    problems: list[Problem] = []
    seen: set[str] = set()
    misses, patience = 0, 10_000
    while len(problems) < n:
        candidate = task.draw(rng, split)
        if candidate is not None:
            identity = candidate.content or candidate.prompt
            if not (unique and identity in seen):
                problems.append(candidate)
                seen.add(identity)
                misses = 0
                continue
        misses += 1
        if misses == patience:
            raise ValueError(
                f"task {task.name!r} yielded only {len(problems)} of {n} {'different ' if unique else ''}"
                f"{split} problems in {patience} further tries: ask for fewer or make the task harder"
            )
    return problems
