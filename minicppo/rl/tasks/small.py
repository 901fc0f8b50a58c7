"""Small verifiable questions, which a chat model of 135M parameters gets right now and then.

Sums are the easiest, and a policy from scratch can try them too; for the others it would have to learn English first.
"""

import random
import re
from string import digits

from minicppo.rl.tasks.base import Problem, Task, register_task

VOWELS, CONSONANTS = "aeiou", "bdfgklmnprst"
SUM = "What is {a} + {b}? Answer with the number only."


class SmallTask(Task):
    """The last whole number of the response counts."""

    held_out_fraction = 0.25
    form = r"\d+"

    def score(self, problem: Problem, response: str) -> float:
        return float(re.findall(r"\d+", response)[-1:] == [problem.answer])

    def well_formed(self, problem: Problem, response: str) -> bool:
        return re.fullmatch(rf"\s*{self.form}\s*", response.lower()) is not None


@register_task
class AdditionTask(SmallTask):
    """`a + b` with both in `low..high`, uniformly: 3 + 4 and 4 + 3 are one problem, so both are in one split.

    misconception: how often a demonstration forgets a carry, each on its own: 27 + 35 = 52. See `ChainTask`.
    """

    name = "addition"

    def __init__(
        self, low: int = 1, high: int = 19, prompt: str = SUM, max_new_tokens: int = 16, misconception: float = 0.0
    ):
        if not 0 <= low < high:
            raise ValueError(f"addition: low = {low} and high = {high} must satisfy 0 <= low < high")
        if "{a}" not in prompt or "{b}" not in prompt:
            raise ValueError(f"addition: prompt = {prompt!r} must contain {{a}} and {{b}}, the places of the numbers")
        if not 0 <= misconception <= 1:
            raise ValueError(
                f"addition: misconception = {misconception!r} is outside 0..1, the share of forgotten carries"
            )
        self.low, self.high, self.prompt, self.max_new_tokens = low, high, prompt, max_new_tokens
        self.misconception = misconception
        self.alphabet = "".join(sorted({*prompt.replace("{a}", "").replace("{b}", ""), *digits}))

    def problem(self, rng: random.Random) -> Problem:
        a, b = rng.randint(self.low, self.high), rng.randint(self.low, self.high)
        text = self.prompt.replace("{a}", str(a)).replace("{b}", str(b))
        return Problem(text, str(a + b), {"a": a, "b": b}, content=f"{min(a, b)} + {max(a, b)}")

    def score(self, problem: Problem, response: str) -> float:
        return super().score(problem, re.sub(r"(?<!\d)0+(?=\d)", "", response))

    def demonstration(self, problem: Problem, rng: random.Random, error_rate: float) -> str:
        """The sum as the misconception has it, or with probability `error_rate` another number of the range of sums."""
        if rng.random() >= error_rate:
            return str(self.added(problem.data["a"], problem.data["b"], rng))
        wrong = rng.randrange(2 * self.low, 2 * self.high)  # one value short: the right one is skipped
        return str(wrong + (wrong >= int(problem.answer)))

    def added(self, a: int, b: int, rng: random.Random) -> int:
        """a + b by columns from the right; each carry is forgotten with probability `misconception`."""
        total, carry, place = 0, 0, 1
        while a or b or carry:
            column = a % 10 + b % 10 + carry
            total += column % 10 * place
            carry = column // 10
            if carry and self.misconception and rng.random() < self.misconception:
                carry = 0
            a, b, place = a // 10, b // 10, 10 * place
        return total


@register_task
class LetterCountTask(SmallTask):
    """How often a letter occurs in a made-up word of `syllables` consonant-vowel pairs: each count equally likely."""

    name = "letter-count"

    def __init__(self, syllables: int = 3, max_new_tokens: int = 16):
        if not 2 <= syllables <= 9:
            raise ValueError(f"letter-count: syllables = {syllables} is outside 2..9 (counts are one digit)")
        self.syllables, self.max_new_tokens = syllables, max_new_tokens

    def problem(self, rng: random.Random) -> Problem:
        count = rng.randint(1, self.syllables)
        chosen, other = rng.sample([VOWELS, CONSONANTS], 2)
        letter = rng.choice(chosen)
        places = set(rng.sample(range(self.syllables), count))
        asked = [letter if i in places else rng.choice(chosen.replace(letter, "")) for i in range(self.syllables)]
        rest = [rng.choice(other) for _ in range(self.syllables)]
        pairs = zip(rest, asked, strict=True) if chosen == VOWELS else zip(asked, rest, strict=True)
        word = "".join(first + second for first, second in pairs)
        prompt = f'How many times does the letter "{letter}" occur in "{word}"? Answer with the number only.'
        return Problem(prompt, str(count), {"letter": letter, "word": word})


@register_task
class MaxOfThreeTask(SmallTask):
    """The largest of three different numbers of `figures` digits; the order they are asked in does not count as new."""

    name = "max-of-three"

    def __init__(self, figures: int = 2, max_new_tokens: int = 16):
        if not 1 <= figures <= 9:
            raise ValueError(f"max-of-three: figures = {figures} is outside 1..9")
        self.figures, self.max_new_tokens = figures, max_new_tokens

    def problem(self, rng: random.Random) -> Problem:
        low = 10 ** (self.figures - 1)
        a, b, c = rng.sample(range(low, 10 * low), 3)
        prompt = f"Which is the largest of {a}, {b} and {c}? Answer with the number only."
        return Problem(prompt, str(max(a, b, c)), {"numbers": (a, b, c)}, content=f"{sorted((a, b, c))}")


@register_task
class ParityTask(SmallTask):
    """Whether a number below `high` is even or odd: chance is 1/2, so look at the answers' form as well."""

    name = "parity"
    form = r"(even|odd)\.?"

    def __init__(self, high: int = 1000, max_new_tokens: int = 8):
        if high < 10:
            raise ValueError(f"parity: high = {high} is below 10: there would be too few numbers to hold some out")
        self.high, self.max_new_tokens = high, max_new_tokens

    def problem(self, rng: random.Random) -> Problem:
        n = rng.randrange(self.high)
        return Problem(f"Is {n} even or odd? Answer with one word.", ("even", "odd")[n % 2], {"n": n})

    def score(self, problem: Problem, response: str) -> float:
        """1 if the response names the right one of the two words and not the other, in any case, else 0."""
        return float(set(re.findall(r"\b(?:even|odd)\b", response.lower())) == {problem.answer})
