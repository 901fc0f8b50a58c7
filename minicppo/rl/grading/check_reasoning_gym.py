"""The checkers of reasoning-gym's data sets, and what of an answer may reach them; loaded by `worker` alone.

Some evaluate an answer as Python (`eval`) or with sympy, which evaluates every string in it again. Such an answer first
has to be what the checker is meant to read: a literal or no Python at all, or arithmetic without strings, lists and
dictionaries. Three more pay for nothing (`python -m experiments.constants` looks for such): a rule of ours compares.
"""

import ast
from collections.abc import Callable
from fractions import Fraction
from typing import Any

LITERAL = frozenset("binary_matrix n_queens spiral_matrix string_insertion".split())  # read by `eval`
ARITHMETIC = frozenset(  # read by sympy
    "countdown intermediate_integration polynomial_multiplication puzzle24 simple_integration".split()
)
LARGEST = 64  # exponent
FUNCTIONS = frozenset("sin cos tan exp log sqrt asin acos atan sinh cosh tanh Abs".split())
NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load, ast.Call),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd),
)


def load() -> Callable[[str, dict[str, Any], dict[str, Any], str], float | None]:
    """`check(data set, its options, entry, answer)`: a score, or None for an answer that its checker may not read."""
    from reasoning_gym.factory import DATASETS

    made: dict[str, Any] = {}

    def check(name: str, options: dict[str, Any], entry: dict[str, Any], answer: str) -> float | None:
        if name == "coin_flip":
            return float(_same_probability(answer, entry["answer"]))
        if name == "game_of_life_halting":  # the package pays for any text
            return float(answer.lower() == entry["answer"].lower())
        if answer != entry["answer"] and not may_be_read(name, answer):
            return None
        key = repr((name, options))
        if key not in made:
            dataset, config = DATASETS[name]
            made[key] = dataset(config(seed=0, size=1, **options))
        return float(made[key].score_answer(answer, entry))

    return check


def _same_probability(answer: str, gold: str) -> bool:
    """Within 0.0001, as in the package, and within 1 %: the package pays for a zero and for a right first digit."""
    try:
        error = abs(Fraction(answer.replace(",", "")) - Fraction(gold))
    except (ValueError, ZeroDivisionError):
        return False
    return error <= Fraction(1, 10_000) and error <= Fraction(gold) / 100


def may_be_read(name: str, answer: str) -> bool:
    """Whether that data set's checker can do nothing with this answer but compare it."""
    if name in LITERAL:
        return is_no_code(answer)
    if name == "complex_arithmetic":  # no distance is smaller than one that is not a number
        return not any(word in answer.lower() for word in ("nan", "inf"))
    return name not in ARITHMETIC or is_arithmetic(answer)


def is_no_code(text: str) -> bool:
    """Whether `eval` makes a value of the text at most, and runs nothing: it is a Python literal, or no expression.

    >>> is_no_code("[1, 'Q']"), is_no_code("Q _ _"), is_no_code("open('x')")
    (True, True, False)
    """
    tree = _parsed(text.lstrip(" \t"))  # as `eval` does
    try:
        if tree:
            ast.literal_eval(tree)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _parsed(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def is_arithmetic(text: str) -> bool:
    """Whether the text is arithmetic of bounded cost, so that evaluating it does nothing else.

    It is made of numbers, names, + - * / **, and calls of elementary functions, none inside another (sympy never
    returns from exp(exp(9**64))). A power's base holds no power; its exponent is a name, or a number up to 64 or
    a fraction. Strings, lists and dictionaries are refused: `sympy.sympify` evaluates the strings it finds in them.

    >>> is_arithmetic("(3 + 4) * 12 / 7"), is_arithmetic("9 ** 9 ** 9"), is_arithmetic("'open(1)'")
    (True, False, False)
    """
    tree = _parsed(text)
    return tree is not None and all(isinstance(node, NODES) and _is_cheap(node) for node in ast.walk(tree))


def _is_cheap(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in (int, float)
        case ast.Name(id=name):
            return "__" not in name
        case ast.Call(func=function, keywords=keywords):
            named = isinstance(function, ast.Name) and function.id in FUNCTIONS and not keywords
            return named and sum(isinstance(each, ast.Call) for each in ast.walk(node)) == 1
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            tower = any(isinstance(each, ast.Pow) for each in ast.walk(base))
            return not tower and (_is_small(exponent) or isinstance(exponent, ast.Name))
    return True


def _is_small(exponent: ast.AST) -> bool:
    match exponent:
        case ast.UnaryOp(operand=operand):
            return _is_small(operand)
        case ast.BinOp(left=over, op=ast.Div(), right=under):  # 3/2
            return isinstance(under, ast.Constant) and _is_small(over) and _is_small(under)
        case ast.Constant(value=value):
            return isinstance(value, int | float) and value <= LARGEST
    return False
