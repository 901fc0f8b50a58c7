"""Whether two LaTeX expressions are the same, by math-verify; loaded by `worker` alone."""

from collections.abc import Callable

PLACES = 12  # in which a decimal must agree: math-verify's own 6 take 0.0000001 for pi / 10^7


def load() -> Callable[[str, str], bool | None]:
    """The comparison; it returns None where one of the two cannot be read."""
    from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify

    # units=False: it would take the variable of 2t for a unit
    spelling = LatexNormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    wanted = [LatexExtractionConfig(normalization_config=spelling, boxed_match_priority=-1)]

    def read(latex: str) -> list[object]:
        return parse(f"${latex}$", wanted, "no_fallback", parsing_timeout=None)

    def check(gold: str, answer: str) -> bool | None:
        try:
            expected, given = read(gold), read(answer)
            same = verify(expected, given, PLACES, allow_set_relation_comp=True, timeout_seconds=None)
        except Exception:  # of any library below
            return None
        return bool(same) if expected and given else None

    check("x+1", "1+x")  # the first pair takes long: tables are loaded
    return check
