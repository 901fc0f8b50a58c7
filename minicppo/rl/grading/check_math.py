"""Whether two LaTeX expressions are the same, read by math-verify's parser and compared exactly; for `worker` alone.

math-verify's own comparison rounds to a number of places, takes the last of several sides, and a capital for a small
letter: here a decimal is the fraction that it spells, and a difference is zero or it is not.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

LETTER = re.compile(r"(\\mathbb\s*\{?[A-Z]\}?|\\[A-Za-z]+)|([A-Zd])(?:_(?:\{([^{}]*)\}|(\w)))?")
DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)")
TIMES = re.compile(r"(?<![_\d.])(\d+)\s*\(")  # 2(1/2) is no mixed number
DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")


def load() -> Callable[[str, str], bool | None]:
    """The comparison; it returns None where one of the two cannot be read."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy
    from latex2sympy2_extended.latex2sympy2 import normalize_latex
    from sympy import Basic, Expr, I, MatrixBase, Rational, Set
    from sympy.core.relational import Equality, Relational

    # units=False: it would take the variable of 2t for a unit
    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")

    @lru_cache
    def read(latex: str, real: bool) -> Basic:
        latex = TIMES.sub(r"\1 \\cdot (", latex)
        latex = LETTER.sub(told_apart, DECIMAL.sub(fraction, DEGREES.sub(r"(\\frac{\1\\pi}{180})", latex)))
        tree = latex2sympy(
            normalize_latex(latex, spelling), is_real=real, convert_degrees=False, normalization_config=None
        )
        return tree.subs({each: I for each in tree.free_symbols if each.name == "i"}).doit()

    def zero(value: Expr) -> bool:
        if value.expand() == 0:
            return True
        somewhere = {each: Rational(3 + i, 7 + 2 * i) for i, each in enumerate(value.free_symbols)}
        with suppress(TypeError, ValueError, OverflowError):  # most that differ do so at any point, by far
            if abs(complex(value.subs(somewhere).evalf(20))) > 1e-9:
                return False
        return bool(value.equals(0))

    def same(gold: Basic, answer: Basic) -> bool | None:
        if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
            return gold.shape == answer.shape and all(map(same, gold.flat(), answer.flat()))
        if isinstance(gold, Relational) and isinstance(answer, Relational):
            first, second = gold.canonical, answer.canonical
            ratio = ((first.lhs - first.rhs) / (second.lhs - second.rhs)).simplify()
            return type(first) is type(second) and bool(
                ratio.is_positive or (ratio.is_nonzero and not ratio.free_symbols and isinstance(first, Equality))
            )
        if isinstance(gold, Set) and isinstance(answer, Set):
            return bool(gold == answer or gold.symmetric_difference(answer).is_empty)
        return zero(gold - answer) if isinstance(gold, Expr) and isinstance(answer, Expr) else None

    def shown(value: Expr, decimal: str) -> bool:
        """Whether the decimal is the value, rounded or cut off."""
        about, last = Rational(decimal), Rational(1, 10 ** len(decimal.partition(".")[2]))
        beyond = (about - value if decimal.startswith("-") else value - about) / last
        return bool(-0.5 <= beyond) and bool(beyond < 1)

    def check(gold: str, answer: str) -> bool | None:
        exact, _, about = answer.partition(r"\approx")
        real = not any(re.search(r"(?<![A-Za-z\\])i(?![A-Za-z])", each) for each in (gold, answer))
        try:
            verdict = same(read(gold, real), read(exact, real))
            return shown(read(exact, real), about.strip()) if verdict and about else verdict
        except Exception:  # of any library below
            return None

    check("x+1", "1+x")  # the first pair takes long: tables are loaded
    return check


def fraction(found: re.Match[str]) -> str:
    """A decimal as it is meant: sympy would add binary ones."""
    return rf"(\frac{{{int(found[1] + found[2])}}}{{{10 ** len(found[2])}}})"


def told_apart(found: re.Match[str]) -> str:
    """The parser takes R for r, and d before another letter for a differential: one gets a number, the other braces."""
    command, letter, *below = found.groups()
    index = "97" * letter.isupper() + "".join(filter(None, below)) if letter else ""
    return command or (f"{letter.lower()}_{{{index}}}" if index else f"{{{letter}}}")
