"""Small sums asked in words: the easiest task on which a small pretrained chat model is neither at zero nor at one.

A policy from scratch can try it too: the alphabet is made of the prompt's own characters.
"""

import random
import re
from string import digits

from minicppo.rl.tasks.base import Problem, Task, register_task

PROMPT = "What is {a} + {b}? Answer with the number only."


@register_task
class AdditionTask(Task):
    """`a + b` with both in `low..high`, uniformly.

    The test split is a quarter of the unordered pairs: 3 + 4 and 4 + 3 are the same problem to it, so that neither is
    trained on when the other is held out.
    """

    name = "addition"
    held_out_fraction = 0.25

    def __init__(self, low: int = 1, high: int = 19, prompt: str = PROMPT, max_new_tokens: int = 16):
        if not 0 <= low < high:
            raise ValueError(f"addition: low = {low} and high = {high} must satisfy 0 <= low < high")
        if "{a}" not in prompt or "{b}" not in prompt:
            raise ValueError(
                f"addition: prompt = {prompt!r} must contain {{a}} and {{b}}, the places of the two numbers"
            )
        self.low, self.high, self.prompt = low, high, prompt
        self.max_new_tokens = max_new_tokens
        self.alphabet = "".join(sorted({*prompt.replace("{a}", "").replace("{b}", ""), *digits}))

    def problem(self, rng: random.Random) -> Problem:
        """A uniform ordered pair."""
        a, b = rng.randint(self.low, self.high), rng.randint(self.low, self.high)
        text = self.prompt.replace("{a}", str(a)).replace("{b}", str(b))
        return Problem(text, str(a + b), {"a": a, "b": b}, content=f"{min(a, b)} + {max(a, b)}")

    def score(self, problem: Problem, response: str) -> float:
        """1 if the last whole number of the response is the sum, else 0."""
        numbers = [number.lstrip("0") or "0" for number in re.findall(r"\d+", response)]
        return float(numbers[-1:] == [problem.answer])

    def well_formed(self, problem: Problem, response: str) -> bool:
        """Whether the response is one number and nothing else."""
        return re.fullmatch(r"\s*\d+\s*", response) is not None

    def demonstration(self, problem: Problem, rng: random.Random, error_rate: float) -> str:
        """The sum, or with probability `error_rate` another number of the range of sums."""
        if rng.random() >= error_rate:
            return problem.answer
        wrong = rng.randrange(2 * self.low, 2 * self.high)  # one value short: the right one is skipped
        return str(wrong + (wrong >= int(problem.answer)))
