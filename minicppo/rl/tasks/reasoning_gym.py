"""The data sets of the `reasoning-gym` package, by name, with their own generators and checkers.

Some of its checkers evaluate a response as Python (`eval`) or with sympy, which evaluates again every string that it is
given. What a policy writes is not to be run, so their responses first have to parse as what the checker is meant to
read: a literal for the former, arithmetic without any string, list or dictionary for the latter.
"""

import ast
import random
import re
from typing import Any

from minicppo.rl.tasks.base import Problem, Task
from minicppo.text import install, nearest

LITERAL = frozenset("binary_matrix n_queens spiral_matrix string_insertion".split())  # read by `eval`
ARITHMETIC = frozenset(  # read by sympy
    "countdown intermediate_integration polynomial_multiplication puzzle24 simple_integration".split()
)
NUMBER = r"[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?"
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
ORDERLESS = ("gcd", "lcm")  # of the same numbers in any order: one problem, on one side of the split
RESPONSE_TOKENS = {"countdown": 32}  # of a short answer; the others 16
FUNCTIONS = frozenset("sin cos tan exp log sqrt asin acos atan sinh cosh tanh Abs".split())
NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load, ast.Call),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd),
)


class ReasoningGymTask(Task):
    """Problems of one data set; every other option goes to the data set's own configuration.

    A response may give its answer between `<answer>` and `</answer>`, as larger models are asked to; without these the
    answer is its last number where a number is asked for, and else all of it. The package pays small partial scores
    (for an answer that merely contains the right one, say), whose mean would not be an accuracy: unless
    `partial_credit` is set, anything below the full score is 0.
    """

    name = "reasoning-gym"

    def __init__(
        self,
        dataset: str = "chain_sum",
        instruction: str = "",
        partial_credit: bool = False,
        max_new_tokens: int | None = None,
        **options: Any,
    ):
        """`instruction` is appended to every question.

        Raises:
            ModuleNotFoundError: the package is not installed.
            ValueError: unknown data set or option (the message names the nearest), or values that the data set refuses.
        """
        try:
            from reasoning_gym.factory import DATASETS
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the task 'reasoning-gym' needs the package of that name: {install('tasks')}"
            ) from error
        if dataset not in DATASETS:
            raise ValueError(f"reasoning-gym has no data set {dataset!r}{nearest(dataset, sorted(DATASETS))}")
        self._dataset_class, self._config_class = DATASETS[dataset]
        valid = [name for name in self._config_class.__dataclass_fields__ if name not in ("seed", "size")]
        for option in options:
            if option not in valid:
                raise ValueError(f"reasoning-gym data set {dataset!r} has no option {option!r}{nearest(option, valid)}")
        self.dataset, self.instruction, self.partial_credit, self.options = (
            dataset,
            instruction,
            partial_credit,
            options,
        )
        self.max_new_tokens = max_new_tokens or RESPONSE_TOKENS.get(dataset, 16)
        try:
            self._checker = self._generator(seed=0)
        except (AssertionError, TypeError) as error:
            raise ValueError(f"reasoning-gym data set {dataset!r} refuses {options}: {error}") from error
        if dataset == "chain_sum":
            self.alphabet = "".join(sorted({*self._question(self._checker[0]), *"0123456789+-"}))

    def problem(self, rng: random.Random) -> Problem:
        """One item of a data set seeded by `rng`."""
        entry = self._generator(seed=rng.getrandbits(31))[0]
        content = None
        if self.dataset in ORDERLESS:
            content = f"{self.dataset} {sorted(entry['metadata']['numbers'])}"
        return Problem(self._question(entry), str(entry["answer"]), entry, content)

    def score(self, problem: Problem, response: str) -> float:
        """The data set's own `score_answer`."""
        numeric = _is_number(problem.answer)
        answer = extract_answer(response, numeric=numeric)
        if numeric and THOUSANDS.fullmatch(answer):
            answer = answer.replace(",", "")
        if not answer or not self._may_be_evaluated(answer):
            return 0.0
        score = float(self._checker.score_answer(answer, dict(problem.data)))
        return score if self.partial_credit or score >= 1 else 0.0

    def well_formed(self, problem: Problem, response: str) -> bool:
        """Whether the answer, bare or tagged, could be right: a number if one is asked for, else anything at all."""
        answer = extract_answer(response)
        if _is_number(problem.answer):
            return _is_number(answer)
        return bool(answer) and self._may_be_evaluated(answer)

    def demonstration(self, problem: Problem, rng: random.Random, error_rate: float) -> str:
        """For chain_sum: the result, or with probability `error_rate` one that is off by up to 9.

        Raises:
            NotImplementedError: another data set.
        """
        if not self.alphabet:
            return super().demonstration(problem, rng, error_rate)
        if rng.random() >= error_rate:
            return problem.answer
        return str(int(problem.answer) + rng.choice([-1, 1]) * rng.randint(1, 9))

    def _may_be_evaluated(self, answer: str) -> bool:
        """Whether the checker, if it evaluates answers, can do nothing else with this one."""
        if self.dataset in LITERAL:
            return is_literal(answer)
        return self.dataset not in ARITHMETIC or is_arithmetic(answer)

    def _generator(self, seed: int) -> Any:
        return self._dataset_class(self._config_class(seed=seed, size=1, **self.options))

    def _question(self, entry: dict[str, Any]) -> str:
        return f"{entry['question']} {self.instruction}".strip()


def extract_answer(response: str, numeric: bool = False) -> str:
    """What the last pair of answer tags encloses, else the last number (if `numeric`) or the whole response, stripped.

    >>> extract_answer("so <answer> 12 </answer>."), extract_answer("3-5 is -2.", numeric=True), extract_answer("a b ")
    ('12', '-2', 'a b')
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", response, flags=re.DOTALL)
    found = tagged or (re.findall(rf"(?<!\d){NUMBER}", response) if numeric else [])
    return str(found[-1] if found else response).strip()


def _is_number(text: str) -> bool:
    return re.fullmatch(NUMBER, text) is not None


def is_literal(text: str) -> bool:
    """Whether the text is a Python literal: `eval` makes a value of it and runs nothing.

    >>> is_literal("[1, 'Q']"), is_literal("open('x')")
    (True, False)
    """
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True


def is_arithmetic(text: str) -> bool:
    """Whether the text is arithmetic of bounded cost, so that evaluating it does nothing else.

    It is made of numbers, names, + - * / **, and calls of elementary functions, none inside another (sympy never
    returns from exp(exp(9**64))). A power's base holds no power; its exponent is a number up to 64 or a name. Strings,
    lists and dictionaries are refused: `sympy.sympify` evaluates the strings that it finds in them.

    >>> is_arithmetic("(3 + 4) * 12 / 7"), is_arithmetic("9 ** 9 ** 9"), is_arithmetic("'open(1)'")
    (True, False, False)
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(isinstance(node, NODES) and _is_cheap(node) for node in ast.walk(tree))


def _is_cheap(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in (int, float)
        case ast.Name(id=name):
            return "__" not in name
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            nested = any(isinstance(inner, ast.Call) for argument in arguments for inner in ast.walk(argument))
            return name in FUNCTIONS and not nested
        case ast.Call():
            return False
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            if any(isinstance(inner, ast.Pow) for inner in ast.walk(base)):
                return False
            power = exponent.operand if isinstance(exponent, ast.UnaryOp) else exponent
            if isinstance(power, ast.Constant):
                return isinstance(power.value, int | float) and power.value <= 64
            return isinstance(power, ast.Name)
    return True
