"""Chained arithmetic modulo 7: every step needs the last one, so one early mistake ruins the answer.

Prompt `x0 op x1 op x2 ... =`, read strictly from left to right; response, for each of n steps, `a op b = c ;` and at
the end `# c`, all without the spaces. Multipliers are never 0: each step is a bijection of the running value, and a
single wrong step always ends in a wrong answer.
"""

import random
import re

from minicppo.rl.tasks.base import Problem, Task

MODULUS = 7


class ChainTask(Task):
    """`steps` operations in a row; a response has 6 steps + 3 tokens (4 steps: 27, 8: 51, 16: 99, 84: 507)."""

    name = "chain"
    alphabet = "0123456+-*=;#"

    def __init__(self, steps: int = 8):
        if not 1 <= steps <= 512:
            raise ValueError(f"chain: steps = {steps} is outside 1..512 (3 to 84 steps give 21 to 507 response tokens)")
        self.steps = steps
        self.max_new_tokens = 6 * steps + 3

    def problem(self, rng: random.Random) -> Problem:
        """A chain with uniform start, operators and operands."""
        start = rng.randrange(MODULUS)
        steps = []
        for _ in range(self.steps):
            op = rng.choice("+-*")
            steps.append((op, rng.randrange(1 if op == "*" else 0, MODULUS)))
        value = start
        for op, operand in steps:
            value = apply(value, op, operand)
        prompt = f"{start}{''.join(f'{op}{operand}' for op, operand in steps)}="
        return Problem(prompt, str(value), {"start": start, "steps": tuple(steps)})

    def score(self, problem: Problem, response: str) -> float:
        """1 if the response ends in `#` and the right value, else 0; the steps before it are not looked at."""
        return float(response.endswith(f"#{problem.answer}"))

    def well_formed(self, problem: Problem, response: str) -> bool:
        """Whether it is n steps and an answer, right or wrong."""
        return re.fullmatch(rf"([0-6][-+*][0-6]=[0-6];){{{self.steps}}}#[0-6]", response) is not None

    def demonstration(self, problem: Problem, rng: random.Random, error_rate: float) -> str:
        """The worked chain; each result is replaced by a wrong one with probability `error_rate`, and carried on."""
        value, parts = problem.data["start"], []
        for op, operand in problem.data["steps"]:
            result = apply(value, op, operand)
            if rng.random() < error_rate:
                result = (result + rng.randrange(1, MODULUS)) % MODULUS
            parts.append(f"{value}{op}{operand}={result};")
            value = result
        return f"{''.join(parts)}#{value}"


def apply(value: int, op: str, operand: int) -> int:
    """One step modulo 7."""
    result = value + operand if op == "+" else value - operand if op == "-" else value * operand
    return result % MODULUS
