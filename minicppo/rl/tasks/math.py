"""Mathematics with one right answer, for pretrained policies; the protocol is the paper's, the wording ours."""

import random
import sys
from collections.abc import Sequence
from functools import cached_property

from minicppo.rl.data import MathProblem, check_name, load_data
from minicppo.rl.grading.extraction import extract_answer
from minicppo.rl.grading.reward import require_math_verify, score_response
from minicppo.rl.near_duplicates import near_duplicates, repeated
from minicppo.rl.tasks.base import Problem, Split, Task, is_held_out, register_task

TEMPLATES = {
    "steps": "Work out the following problem step by step. End with a line of the form Answer: $Answer, where $Answer "
    'is your result.\n\n{problem}\n\nGive the result on a line of its own after "Answer:", as the last one.',
    "short": "{problem}\n\nReply with one line and nothing else: Answer: followed by the result.",
}


@register_task
class MathTask(Task):
    """The problems of `data`: a known name (dapo-math-17k, gsm8k, aime24, ...), a file, or a hub name OWNER/NAME.

    A tenth of them is held out, by content; with `test`, one or several other data sets, all of these is held out
    instead. What repeats a held-out problem, or nearly, is not trained on (`minicppo.rl.near_duplicates`). The data are
    read when the first problem is asked for.
    """

    name = "math"

    def __init__(
        self,
        data: str = "gsm8k",
        test: str | list[str] | None = None,
        template: str = "steps",  # or "short", or a text with {problem}
        max_new_tokens: int = 1024,
        max_question_chars: int | None = None,
        max_answer_chars: int | None = None,
        max_solution_lines: int | None = None,  # of the worked solution: GSM8K has one step a line
    ):
        """The `max_...` options drop longer problems. Raises ValueError, before any data are read."""
        self.tests = [test] if isinstance(test, str) else test or []
        for source in (data, *self.tests):
            check_name(source)
        self.template = template_text(template)
        self.data, self.max_new_tokens = data, max_new_tokens
        self.limits = (max_question_chars, max_answer_chars, max_solution_lines)

    def problem(self, rng: random.Random) -> Problem:
        return rng.choice([*self.problems["train"], *self.problems["test"]])

    def draw(self, rng: random.Random, split: Split) -> Problem | None:
        """Each equally likely. Raises ValueError: the split is empty. DataError: the data cannot be read."""
        if not self.problems[split]:
            raise ValueError(
                f"math: no {split} problem of {', '.join([self.data, *self.tests])} is left: relax the max_... options"
            )
        return rng.choice(self.problems[split])

    def score(self, problem: Problem, response: str) -> float:
        return score_response(response, problem.answer)

    def well_formed(self, problem: Problem, response: str) -> bool:
        return extract_answer(response) is not None

    def trained_on(self, names: Sequence[str]) -> int:
        """How many problems of these data sets training problems repeat, or nearly. Raises DataError."""
        asked = [each.question for name in names for each in load_data(name).problems]
        return len(repeated(asked, [each.data["question"] for each in self.problems["train"]]))

    @cached_property
    def problems(self) -> dict[Split, list[Problem]]:
        """In the order of their files. Raises DataError: they cannot be read; ModuleNotFoundError: no math-verify."""
        require_math_verify()
        everything = self._load(self.data)
        questions = [each.data["question"] for each in everything]
        test = [each for name in self.tests for each in self._load(name)]
        if self.tests:
            held_out = set(repeated(questions, [each.data["question"] for each in test]))
            near = len(held_out)
        else:  # whole groups of near-duplicates, as their first one is
            apart = [is_held_out(each, self.held_out_fraction) for each in everything]
            held_out = {i for i, first in enumerate(near_duplicates(questions)) if apart[first]}
            test = [everything[i] for i in sorted(held_out)]
            near = sum(not apart[i] for i in held_out)
        if near:
            print(f"math: {near} problems of {self.data} repeat held-out ones: not trained on", file=sys.stderr)
        return {"train": [each for i, each in enumerate(everything) if i not in held_out], "test": test}

    def _load(self, name: str) -> list[Problem]:
        kept = []
        for each in load_data(name).problems:
            sizes = (len(each.question), len(each.answer), len((each.solution or "").splitlines()))
            if all(limit is None or size <= limit for size, limit in zip(sizes, self.limits, strict=True)):
                kept.append(as_problem(each, self.template))
        return kept


def template_text(template: str) -> str:
    """A template by name, or one of your own. Raises ValueError: it has no {problem}, the place of the problem."""
    text = TEMPLATES.get(template, template)
    if "{problem}" not in text:
        raise ValueError(f"math: template = {template!r} must be one of {', '.join(TEMPLATES)} or contain {{problem}}")
    return text


def as_problem(problem: MathProblem, template: str) -> Problem:
    """What the policy sees. Copies that differ in white space alone share their content, and so their split."""
    question = problem.question
    data = {"row": problem.row, "question": question}
    return Problem(template.replace("{problem}", question), problem.answer, data, content=" ".join(question.split()))
