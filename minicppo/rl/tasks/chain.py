"""Chained arithmetic modulo 7: every step needs the last one, and no multiplier is 0, so one mistake ruins the answer.

Prompt `x0 op x1 op x2 ... =`, read from left to right; response, for each step, `a op b = c ;` and at the end `# c`,
all without spaces.
"""

import random
import re

from minicppo.rl.tasks.base import Problem, Task, register_task

MODULUS = 7


@register_task
class ChainTask(Task):
    """Arithmetic modulo 7, `steps` operations in a row, gone through `rounds` times.

    Each step takes 6 tokens of the response, and 3 end it.

    misconception: how often a demonstration's product is one too high. Above one half it is what a policy that imitates
    them says when it is most sure: its greedy answers are wrong as well, and the right product has to be learned.
    misled_values: the misconception concerns the products of the highest so many of the 7 values; fewer of them leave a
    long chain some right demonstrations.

    4 steps make 27 tokens, 8 make 51, 84 make 507; 8 steps in 8 rounds make 387. Rounds lengthen the response alone: a
    tiny policy keeps its place among 8 operations, hardly among 64.
    """

    name = "chain"
    alphabet = "0123456+-*=;#"

    def __init__(self, steps: int = 8, rounds: int = 1, misconception: float = 0.0, misled_values: int = MODULUS):
        if not (steps >= 1 and rounds >= 1 and steps * rounds <= 512):
            raise ValueError(
                f"chain: steps x rounds = {steps} x {rounds} is outside 1..512 (3 to 84 give 21 to 507 response tokens)"
            )
        if not 0 <= misconception <= 1:
            raise ValueError(f"chain: misconception = {misconception!r} is outside 0..1, the share of wrong products")
        if not 1 <= misled_values <= MODULUS:
            raise ValueError(f"chain: misled_values = {misled_values!r} is outside 1..{MODULUS}: the task has 7 values")
        self.steps, self.rounds, self.misconception, self.misled_values = steps, rounds, misconception, misled_values
        self.max_new_tokens = 6 * steps * rounds + 3

    def problem(self, rng: random.Random) -> Problem:
        start = rng.randrange(MODULUS)
        operators = (rng.choice("+-*") for _ in range(self.steps))
        steps = [(op, rng.randrange(op == "*", MODULUS)) for op in operators]
        value = start
        for op, operand in steps * self.rounds:
            value = apply(value, op, operand)
        prompt = f"{start}{''.join(f'{op}{operand}' for op, operand in steps)}="
        return Problem(prompt, str(value), {"start": start, "steps": tuple(steps)})

    def score(self, problem: Problem, response: str) -> float:
        """1 if the response ends in `#` and the right value, else 0; the steps before it are not looked at."""
        return float(response.endswith(f"#{problem.answer}"))

    def well_formed(self, problem: Problem, response: str) -> bool:
        return re.fullmatch(rf"([0-6][-+*][0-6]=[0-6];){{{self.steps * self.rounds}}}#[0-6]", response) is not None

    def demonstration(self, problem: Problem, rng: random.Random, error_rate: float) -> str:
        """The worked chain; a result is wrong with probability `error_rate`, or by the misconception, and goes on."""
        value, parts = problem.data["start"], []
        for op, operand in problem.data["steps"] * self.rounds:
            result = apply(value, op, operand)
            misled = op == "*" and self.misconception > 0 and value >= MODULUS - self.misled_values
            if rng.random() < (self.misconception if misled else error_rate):
                result = (result + (1 if misled else rng.randrange(1, MODULUS))) % MODULUS
            parts.append(f"{value}{op}{operand}={result};")
            value = result
        return f"{''.join(parts)}#{value}"


def apply(value: int, op: str, operand: int) -> int:
    """One step modulo 7."""
    return {"+": value + operand, "-": value - operand, "*": value * operand}[op] % MODULUS
