"""When two final answers are the same: by rules where a person sees it at a glance, else by math-verify."""

import re
from fractions import Fraction
from itertools import accumulate
from typing import Any

from minicppo.rl.grading.confined import MATH, confined
from minicppo.rl.grading.tidy import tidy

LONGEST = 300  # characters of an answer worth judging
LONGEST_GOLD = 1000
DEEPEST = 12  # brackets within brackets
HEDGES = re.compile(r"(?i)\b(?:or|either|maybe|perhaps|possibly|not|unless|unknown)\b|\?")
FUNCTIONS = frozenset("arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc log exp gcd lcm max min mod".split())
UNITS = dict(
    pair.split("=")
    for pair in (
        "centimeter=cm centimetre=cm millimeter=mm kilometer=km kilometre=km meter=m metre=m in=inch inche=inch "
        "ft=foot feet=foot mi=mile yd=yard gram=g kilogram=kg lb=pound sec=s second=s min=minute hr=h hour=h liter=l "
        "litre=l usd=dollar deg=degree sq=square cents=cent"
    ).split()
)
SHORT_UNITS = frozenset({*UNITS.values(), *UNITS, "kmh", "mph", "l", "am", "pm", "cc", "ml"})
NUMBER_WORDS = frozenset(  # no units, but part of the number; without a final s
    "dozen hundred thousand million billion trillion half halve third fourth fifth sixth seventh eighth ninth tenth "
    "hundredth thousandth millionth squared cubed factorial negative minu plu over than double triple twice inverse "
    "zero one two three four five six seven eight nine ten eleven twelve twenty".split()
)
UNIT = re.compile(
    r"(?P<value>.*?[\d})%a-z])(?P<gap>\s*)(?P<unit>(?<![A-Za-z\\])[A-Za-z]+(?:[ ./]+[A-Za-z]+)*)"
    r"\s*(?P<power>\^\s*\{?[23]\}?)?"
)
RAY = re.compile(r"[a-z]\s*(?P<sign>(?P<below><|\\leq?)|>|\\geq?)(?![a-z])\s*(?P<end>[^<>=]+)")
BASED = re.compile(r"(?P<digits>[0-9A-Z]+)_\{?(?P<base>\d+)\}?")
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
PLAIN = r"\d+(?:\.\d*)?|\.\d+"
NUMBERS = [
    re.compile(rf"(?P<whole>{PLAIN})"),
    re.compile(r"(?P<whole>[1-9]\d{0,2}(?:([, ])\d{3})(?:\2\d{3})*(?:\.\d+)?)"),
    re.compile(r"(?P<over>\d+(?:\.\d+)?)\s*/\s*(?P<under>\d+(?:\.\d+)?)"),
    re.compile(r"\\frac\s*\{\s*(?P<over>-?\d+(?:\.\d+)?)\s*\}\s*\{\s*(?P<under>-?\d+(?:\.\d+)?)\s*\}"),
    re.compile(r"(?P<whole>\d+)\s*\\frac\s*\{\s*(?P<over>\d+)\s*\}\s*\{\s*(?P<under>\d+)\s*\}"),
    re.compile(r"(?P<whole>\d+)(?:\s+|\s*[-+]\s*(?=\d+/))(?P<over>\d+)\s*/\s*(?P<under>\d+)"),
    re.compile(rf"(?P<whole>{PLAIN})\s*(?:\\times|\\cdot|x|X|\*)\s*10\s*\^\s*\{{?\s*(?P<power>[-+]?\d{{1,3}})\s*\}}?"),
    re.compile(rf"(?P<whole>{PLAIN})[eE](?P<power>[-+]?\d{{1,3}})"),
    re.compile(r"(?P<whole>\d*)\.(?P<fixed>\d*)\\overline\s*\{\s*(?P<period>\d+)\s*\}"),
]


def same_answer(gold: str, answer: str) -> bool | None:
    """Whether a person would accept `answer` where `gold` is right; None: it cannot be read. Raises Unchecked."""
    if not answer.strip() or len(answer) > LONGEST or len(gold) > LONGEST_GOLD:
        return None
    expected, given = tidy(gold), tidy(answer)
    if not expected:  # typography alone is the same as nothing
        return None
    if _squeezed(expected) == _squeezed(given):
        return True
    if not given or given.endswith("\\") or not _balanced(given):
        return None
    verdict = _same_number(expected, given)
    if verdict is not None:
        return verdict
    if re.fullmatch(r"\(?[A-H]\)?", expected):  # one of several choices
        choice = re.match(r"\(?([A-Ha-h])(?:\)|\.|:|$)", given)
        return choice is not None and choice[1].upper() == expected.strip("()")
    if (has_words(expected) or expected.lower() in ("yes", "no")) and _split_unit(expected) is None:
        first, second = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (expected, given))
        return first == second
    if r"\cup" in expected:
        given = r" \cup ".join(map(_interval, re.split(r"\s+or\s+", given)))
    elif re.search(r",|\\pm|=", expected):
        given = re.sub(r",?\s+(?:and|or)\s+", ", ", given)
    return False if HEDGES.search(given) else _same_quantity(expected, given)


def _interval(text: str) -> str:
    """What `x < 2` says, as an interval; anything else as it is."""
    match = RAY.fullmatch(text.strip())
    if match is None:
        return text
    opening, closing = ("(", ")") if match["sign"] in "<>" else ("[", "]")
    return rf"(-\infty, {match['end']}{closing}" if match["below"] else rf"{opening}{match['end']}, \infty)"


def _same_quantity(gold: str, answer: str) -> bool | None:
    (gold, gold_unit), (answer, answer_unit) = (_split_unit(text) or (text, "") for text in (gold, answer))
    if gold_unit != answer_unit and (
        (gold_unit and answer_unit) or not NUMBER_WORDS.isdisjoint(f"{gold_unit} {answer_unit}".split())
    ):
        return False
    gold, answer = _bare_values(gold, answer)
    if _squeezed(gold).lower() == _squeezed(answer).lower():
        return _squeezed(gold) == _squeezed(answer)  # math-verify takes x for X
    first, second = BASED.fullmatch(gold), BASED.fullmatch(answer)
    if first and second:
        return first.groups() == second.groups()
    verdict = _same_number(gold, answer)
    if verdict is not None:
        return verdict
    if (has_words(answer) and not has_words(gold)) or re.search(r"\d\s+\d", answer):
        return False  # math-verify would multiply two numbers side by side
    return confined(MATH, gold, answer)


def _same_number(gold: str, answer: str) -> bool | None:
    """Exact comparison of two plain numbers; None if one is not. A per cent sign may be left out of one above 1."""
    (first, first_percent), (second, second_percent) = _number(gold), _number(answer)
    if first is None or second is None:
        return None
    if first_percent == second_percent:
        return first == second
    share = first / 100 == second if first_percent else first == second / 100
    return share or (first == second and abs(first) > 1)


def _number(text: str) -> tuple[Fraction | None, bool]:
    """The value of a plain number in any usual spelling, and whether a per cent sign follows it."""
    text = text.strip()
    percent = text.endswith("%")
    text = text.rstrip("% ")
    while re.fullmatch(r"\(.*\)|\{.*\}", text):
        text = text[1:-1].strip()
    bare, _, word = text.rpartition(" ")
    scale = SCALES.get(word.lower(), 1)
    text = text if scale == 1 else bare
    sign = -1 if text.startswith("-") else 1
    text = text.lstrip("+-").strip() if re.match(r"[-+]\s*[\d.\\(]", text) else text
    match = next(filter(None, (pattern.fullmatch(text) for pattern in NUMBERS)), None)
    if match is None:
        return None, percent
    part: dict[str, Any] = {"whole": "0", "over": 0, "under": 1, "power": 0} | match.groupdict()
    if "period" in part:
        part["over"], part["under"] = int(part["period"]), 10 ** len(part["fixed"]) * (10 ** len(part["period"]) - 1)
        part["whole"] = f"{part['whole'] or 0}.{part['fixed'] or 0}"
    if not Fraction(part["under"]):
        return None, percent
    value = Fraction(re.sub("[, ]", "", part["whole"])) + Fraction(part["over"]) / Fraction(part["under"])
    return sign * scale * value * Fraction(10) ** int(part["power"]), percent


def _split_unit(text: str) -> tuple[str, str] | None:
    """A quantity as its value and its unit in one spelling; None if it ends in no unit."""
    match = UNIT.fullmatch(text)
    if match is None or not re.search(r"\d|\\pi", match["value"]):
        return None
    words = [word.lower() for word in re.split(r"[ ./]+", match["unit"]) if word]
    if any(word in FUNCTIONS or HEDGES.search(word) for word in (words[:-1] if words[-1] in UNITS else words)):
        return None  # but min and sec without an argument are units
    known = [UNITS.get(word, UNITS.get(word.rstrip("s"), word.rstrip("s"))) for word in words]
    if any(len(word) < 3 and word not in SHORT_UNITS for word in words) or (len(words[0]) == 1 and not match["gap"]):
        return None  # a variable
    power = re.sub(r"[^\d]", "", match["power"] or "")
    if known[0] in ("square", "cubic") and len(known) > 1:
        power, known = {"square": "2", "cubic": "3"}[known[0]], known[1:]
    return match["value"].strip(), " ".join(known) + power


def _bare_values(gold: str, answer: str) -> tuple[str, str]:
    """Both without the variable they are assigned to, where only one names it, or both the same."""
    gold, answer = (re.sub(r"^[A-Za-z]\s*\\in\s*", "", text) for text in (gold, answer))
    first, second = _assigned(gold), _assigned(answer)
    if first and second and [name for name, _ in first] != [name for name, _ in second]:
        return gold, answer
    if second and (first or "=" not in gold):
        values = ",".join(value for _, value in second)
        answer = f"({values})" if gold.startswith("(") and len(second) > 1 else values
    elif "=" in answer and "=" not in gold and "," not in answer:
        answer = answer.rpartition("=")[2].strip()  # 6 * 7 = 42
    if first and (second or "=" not in answer):
        gold = ",".join(value for _, value in first)
    return gold, answer


def _assigned(text: str) -> list[tuple[str, str]]:
    """Names and values of `x = 1, y = 2`; nothing if it is anything else."""
    parts = [part.strip() for part in text.split(",")]
    found = [re.fullmatch(r"([A-Za-z](?:_\{?\w\}?)?(?:\([a-z]\))?)\s*=([^=]+)", part) for part in parts]
    return [(match[1], match[2].strip()) for match in found if match] if all(found) else []


def has_words(text: str) -> bool:
    """Whether it holds a word: three letters or more that are neither a command nor a function."""
    return any(word.lower() not in FUNCTIONS for word in re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{3,}", text))


def _squeezed(text: str) -> str:
    """Without spaces, but for those that keep two numbers or a command and a letter apart."""
    return re.sub(r"(?<![\dA-Za-z])\s+|\s+(?![\dA-Za-z])", "", text)


def depths(text: str, opening: str = "([{", closing: str = ")]}") -> list[int]:
    """How many brackets are open before and after each character."""
    return list(accumulate(((each in opening) - (each in closing) for each in text), initial=0))


def _balanced(text: str) -> bool:
    """Whether brackets close as many as they open (an interval may mix kinds, braces may not), none too deep."""
    text = re.sub(r"\\[{}]", "", text)
    all_kinds, braces = depths(text), depths(text, "{", "}")
    return min(all_kinds + braces) >= 0 and max(all_kinds) <= DEEPEST and all_kinds[-1] == braces[-1] == 0
