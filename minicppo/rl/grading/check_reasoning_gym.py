"""The checkers of reasoning-gym's data sets, and what of an answer may reach them; loaded by `worker` alone.

Some of them evaluate an answer as Python (`eval`) or with sympy, which evaluates again every string that it is given.
What a policy writes is not to be run, so such an answer first has to parse as what the checker is meant to read: a
literal for the former, arithmetic without any string, list or dictionary for the latter.
"""

import ast
from collections.abc import Callable
from typing import Any

LITERAL = frozenset("binary_matrix n_queens spiral_matrix string_insertion".split())  # read by `eval`
ARITHMETIC = frozenset(  # read by sympy
    "countdown intermediate_integration polynomial_multiplication puzzle24 simple_integration".split()
)
FUNCTIONS = frozenset("sin cos tan exp log sqrt asin acos atan sinh cosh tanh Abs".split())
NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load, ast.Call),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd),
)


def load() -> Callable[[str, dict[str, Any], dict[str, Any], str], float | None]:
    """`check(data set, its options, entry, answer)`: the package's score, None for an answer that it may not read."""
    from reasoning_gym.factory import DATASETS

    made: dict[str, Any] = {}

    def check(name: str, options: dict[str, Any], entry: dict[str, Any], answer: str) -> float | None:
        if answer != entry["answer"] and not may_be_read(name, answer):
            return None
        key = repr((name, options))
        if key not in made:
            dataset, config = DATASETS[name]
            made[key] = dataset(config(seed=0, size=1, **options))
        return float(made[key].score_answer(answer, entry))

    return check


def may_be_read(name: str, answer: str) -> bool:
    """Whether that data set's checker, if it evaluates answers, can do nothing else with this one."""
    if name in LITERAL:
        return is_literal(answer)
    return name not in ARITHMETIC or is_arithmetic(answer)


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
