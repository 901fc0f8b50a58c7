"""When two final answers are the same: lists, intervals, names and units by rules, one value by another exactly."""

import re
from fractions import Fraction
from itertools import accumulate
from string import ascii_lowercase
from threading import local

from minicppo.rl.grading.confined import MATH, Unchecked, confined
from minicppo.rl.grading.tidy import tidy

LONGEST = 300  # characters of an answer worth judging
LONGEST_GOLD = 1000
DEEPEST = 12  # brackets within brackets
MOST_ASKED = 24  # comparisons of elements in another process, each with a time limit of its own
_asked = local()  # of this thread
HEDGES = re.compile(
    r"(?i)\b(?:or|either|maybe|perhaps|possibly|not|unless|unknown|about|around|almost|wrong|false|incorrect)\b|\?"
)
FUNCTIONS = frozenset(
    "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln log exp gcd lcm max min mod".split()
)
UNITS = dict(
    pair.split("=")
    for pair in (
        "centimeter=cm centimetre=cm millimeter=mm kilometer=km kilometre=km meter=m metre=m in=inch inche=inch "
        "ft=foot feet=foot mi=mile yd=yard gram=g kilogram=kg lb=pound sec=s second=s min=minute hr=h hour=h liter=l "
        "litre=l usd=dollar deg=degree celsius=celsius sq=square cents=cent yr=year"
    ).split()
)
SHORT_UNITS = frozenset({*UNITS.values(), *UNITS, "kmh", "mph", "l", "am", "pm", "cc", "ml"})
NUMBER_WORDS = re.compile(  # no units, but part of the number; without a final s
    r"\b(?:dozen|hundred|thousand|\w*illion|lakh|crore|half|halve|third|quarter|squared|cubed|factorial|negative|minu|plu|over"
    r"|than|double|triple|twice|inverse|score|gross|below|percent|permille|modulo|remainder|zero|one|two|three|four|five"
    r"|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty"
    r"|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie|hundred|thousand|\w*illion)th)\b"
)
UNIT = re.compile(
    r"(?P<value>.*?[\d})%a-z])(?P<gap>\s*)(?P<unit>(?<![A-Za-z\\])[A-Za-z]+(?:[ ./]+[A-Za-z]+)*)"
    r"\s*(?P<power>\^\s*\{?[23]\}?)?"
)
DEGREE = re.compile(r"(?:\s*\^\s*\{?\s*\\circ\s*\}?|\s*\\degree)\s*([CF]?)$")
DEGREES = {"": " degree", "C": " degree celsius", "F": " degree fahrenheit"}
NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<over>\d+(?:\.\d*)?|\.\d+)(?:\s*/\s*(?P<under>\d+))?"
    r"|\\frac\s*\{\s*(?P<top>-?\d+)\s*\}\s*\{\s*(?P<bottom>-?\d+)\s*\})\s*(?P<percent>%?)"
)
CHOICE = re.compile(r"(?:(?i:option|choice)\s*)?\(?([A-Ha-h])(?=$|[).:]|\s*\()(.*)")
ENCLOSED = re.compile(r"(\\\{|[(\[{])(.*?)(\\\}|[)\]}])")
COMMA = re.compile(r"\s*[,;]\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+")
EQUAL = re.compile(r"(?<![<>!])=")
BOUND = re.compile(r"(<|>|\\[lg]e(?![a-z]))")
NAME = re.compile(  # what a value may be said of: x, f(2), AB, m/n, a - b; but not 2x, -x, x^2, 1/x
    r"(?:\\(?:angle|triangle|overline|frac|alpha|beta|gamma|theta|lambda|cdot|vec)(?![a-z])|[fghPE]\([^()=]*\)"
    r"|[A-Za-z]'*(?:_(?:\{\w+\}|\w))?(?:\([\w, ]*\))?|[()\[\]|{}+/,\s]|(?<=[\w)}])\s*-)+"
)
ABOUT = re.compile(r"\s*\\approx\s*-?\d*\.?\d+$")  # after an exact form, which it has to agree with
UNCLEAR = re.compile(  # 1/2x is read in two ways
    r"(?<![_\d])\d+\s+\d|'|:|!!|\d\s*_|\\approx|\\[lc]?dots(?![a-z])"
    r"|/\s*\d+\s*(?:[a-zA-Z(]|\\(?!cdot|times|\\|end|cup|cap))"
)


def same_answer(gold: str, answer: str) -> bool | None:
    """Whether a person would accept `answer` where `gold` is right; None: it cannot be read. Raises Unchecked."""
    if not answer.strip() or len(answer) > LONGEST or len(gold) > LONGEST_GOLD:
        return None
    plain = _same_number(gold.strip(), answer.strip()) if NUMBER.fullmatch(answer.strip()) else None
    if plain is not None:
        return plain
    expected, given = tidy(gold), tidy(answer)
    if not expected:  # typography alone is the same as nothing
        return None
    if _squeezed(expected) == _squeezed(given):
        return True
    wanted = re.fullmatch(r"\(?([A-H])\)?|\(([A-H])\)\s.*", expected)
    if wanted:  # one of several choices
        choice = CHOICE.fullmatch(given)
        if not choice or HEDGES.search(given) or re.search(r"\b[A-H]\b", choice[2]):
            return False
        return choice[1].upper() == (wanted[1] or wanted[2])
    if not given or not _balanced(given):
        return None
    _asked.times = 0
    (gold_variable, expected), (variable, given) = _intervals(expected), _intervals(given)
    return False if gold_variable and variable and gold_variable != variable else _same(expected, given)


def _same(gold: str, answer: str) -> bool | None:
    """Of two texts that may be lists, equalities or single values."""
    if _squeezed(gold) == _squeezed(answer):
        return True
    (gold_kind, golds), (kind, given) = _listed(gold), _listed(answer)
    if len(golds) == 1 or len(given) == 1:
        sides, given_sides = (_cut(part[0], EQUAL) if len(part) == 1 else [] for part in (golds, given))
        if max(len(sides), len(given_sides)) > 1:
            return _same_sides(sides or [gold], given_sides or [answer])
        return len(golds) == len(given) and _same_value(golds[0], given[0])
    ordered = not {gold_kind, kind} <= {"", "{}"}
    if len(golds) != len(given) or (ordered and gold_kind != kind and {gold_kind, kind} != {"", "()"}):
        return False
    units = [*map(_measured, given)]
    if any(units) and not any(map(_measured, golds)) and (kind not in ("", "{}") or not units[-1]):
        return False  # a unit within an interval or a point, or of some alone; but 3 and 4 cm are both in cm
    names, given_names = ([_name(each) for each in part] for part in (golds, given))
    if all(names) and all(given_names) and sorted(names) != sorted(given_names):
        return False
    for named, part, other in ((names, golds, given_names), (given_names, given, names)):
        if all(named) and len({name[0] for name in named} if not all(other) else {*named}) == len(part):
            part.sort(key=_name)
            ordered = True
    left = list(given)
    for each in golds:
        found = next((i for i in range(1 if ordered else len(left)) if _same(each, left[i])), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_sides(golds: list[str], given: list[str]) -> bool | None:
    """Of two chains of equalities: what is no mere name has to be the right value, on every side of the answer's."""
    if len(golds) > 1 and len(given) > 1:
        if _squeezed(golds[0]) != _squeezed(given[0]):  # 2x = 4 and x = 2, or x = 1 and y = 1
            return len(golds) == len(given) == 2 and _confined("=".join(golds), "=".join(given))
        given = given[1:]
    elif len(golds) > 1 and not _is_name(golds[0]):
        return False  # an equation, and a value
    verdicts = {_same(golds[-1], each) for each in [each for each in given if not _is_name(each)] or given[-1:]}
    return False if False in verdicts else None if None in verdicts else True


def _same_value(gold: str, answer: str) -> bool | None:
    if (has_words(gold) or gold.lower() in ("yes", "no")) and _split_unit(gold) is None:
        first, second = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (gold, answer))
        return first == second
    if HEDGES.search(answer):
        return False
    (gold, gold_unit), (answer, unit) = (_split_unit(text) or (text, "") for text in (gold, answer))
    scaled = {gold_unit, unit} in ({"degree", degree.strip()} for degree in DEGREES.values())  # 5 degrees for 5 C
    if gold_unit != unit and not scaled and ((gold_unit and unit) or NUMBER_WORDS.search(f"{gold_unit} {unit}")):
        return False
    if _squeezed(gold) == _squeezed(answer):
        return True
    verdict = _same_number(gold, answer)
    return verdict if verdict is not None else _confined(gold, answer)


def _confined(gold: str, answer: str) -> bool | None:
    gold = ABOUT.sub("", gold)
    if any(UNCLEAR.search(text) or has_words(text) for text in (gold, ABOUT.sub("", answer))):
        return None
    _asked.times += 1
    if _asked.times > MOST_ASKED:
        raise Unchecked("timeout")
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
    """The value of a whole number, decimal or fraction of these, and whether a per cent sign follows it."""
    while re.fullmatch(r"\(.*\)|\{.*\}", text):
        text = text[1:-1].strip()
    found = NUMBER.fullmatch(text)
    under = found and Fraction(found["under"] or found["bottom"] or 1)
    if not found or not under:
        return None, False
    return (-1 if found["sign"] == "-" else 1) * Fraction(found["over"] or found["top"]) / under, bool(found["percent"])


def _split_unit(text: str) -> tuple[str, str] | None:
    """A quantity as its value and its unit in one spelling; None if it ends in no unit."""
    match = UNIT.fullmatch(DEGREE.sub(lambda scale: DEGREES[scale[1]], text))
    if match is None or not re.search(r"\d|\\pi", match["value"]) or re.search(r"\\[a-z]{3}(?![a-z])", match["value"]):
        return None
    words = [word.lower() for word in re.split(r"[ ./]+", match["unit"]) if word]
    if any(word in FUNCTIONS or HEDGES.search(word) for word in (words[:-1] if words[-1] in UNITS else words)):
        return None  # but min and sec without an argument are units
    if any(word not in SHORT_UNITS and word.rstrip("s") not in SHORT_UNITS for word in words) and (
        not match["gap"] or any(word not in SHORT_UNITS and not _is_word(word) for word in words)
    ):
        return None  # variables
    if (len(words[0]) == 1 and not match["gap"]) or match["unit"] in ("K", "M", "G", "B", "T"):
        return None  # 5m may be five times m, 5 M are millions
    known = [UNITS.get(word, UNITS.get(word.rstrip("s"), word.rstrip("s"))) for word in words]
    power = re.sub(r"[^\d]", "", match["power"] or "")
    if known[0] in ("square", "cubic") and len(known) > 1:
        power, known = {"square": "2", "cubic": "3"}[known[0]], known[1:]
    return match["value"].strip(), " ".join(known) + power


def _measured(text: str) -> bool:
    return text.endswith("%") or _split_unit(text) is not None


def _intervals(text: str) -> tuple[str, str]:
    """The variable of inequalities, and as intervals what they say of it; "" and the text where it is anything else."""
    variables, intervals = set(), []
    for piece in re.split(r",?\s+or\s+", text):
        ends: dict[bool, list[tuple[str, bool]]] = {True: [], False: []}
        for part in re.split(r",?\s+and\s+|,", piece):
            sides = [side.strip() for side in BOUND.split(part)]
            for left, sign, right in zip(sides[:-2:2], sides[1::2], sides[2::2], strict=True):
                below = sign in ("<", r"\le")
                names = [re.fullmatch(r"[A-Za-z]|\\theta", side) is not None for side in (left, right)]
                ends[below == names[0]].append((right if names[0] else left, len(sign) == 1))
                variables.add(left if names[0] else right)
                if sum(names) != 1:
                    return "", text
            if len(sides) < 3:  # x is not 2, say
                return "", text
        if max(map(len, ends.values())) > 1 or not any(ends.values()):
            return "", text
        (low, low_open), (high, high_open) = (*ends[False], (r"-\infty", True))[0], (*ends[True], (r"\infty", True))[0]
        intervals.append(f"{'(' if low_open else '['}{low}, {high}{')' if high_open else ']'}")
    return (variables.pop(), r" \cup ".join(intervals)) if len(variables) == 1 else ("", text)


def _listed(text: str) -> tuple[str, list[str]]:
    """The brackets around a list, "" for none, and its elements: 1 \\pm 2 is two, and in x = 1, 2 both are x."""
    whole, kind, inside = ENCLOSED.fullmatch(text), "", text
    if whole and min(depths(whole[2])) >= 0:
        kind, inside = (whole[1] + whole[3]).replace("\\", ""), whole[2].strip()
    elements = _cut(inside, COMMA)
    if len(elements) == 1 and kind and (kind == "()" or inside.startswith("{")):
        return _listed(inside)
    if len(elements) == 1 and (kind != "{}" or inside == r"\emptyset"):
        kind, elements = "", [text]
    name = _name(elements[0])
    if name and not any("=" in each for each in elements[1:]):
        elements = [elements[0], *(f"{name} = {each}" for each in elements[1:])]
    return kind, [
        each.replace(r"\pm", sign).replace(r"\mp", "-+"[sign == "-"])
        for each in elements
        for sign in ("+-" if re.search(r"\\(?:pm|mp)(?![a-z])", each) else "+")
    ]


def _cut(text: str, where: re.Pattern[str]) -> list[str]:
    """The parts of a text between separators that stand in no brackets."""
    depth, parts, start = depths(text), [], 0
    for found in where.finditer(text):
        if depth[found.start()] == 0:
            parts.append(text[start : found.start()].strip())
            start = found.end()
    return [*parts, text[start:].strip()]


def _name(text: str) -> str:
    """What is left of the first equals sign, if that is a name."""
    first, *others = _cut(text, EQUAL)
    return _squeezed(first) if others and _is_name(first) else ""


def _is_name(text: str) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", text)}
    named = words and words.isdisjoint(FUNCTIONS) and not NUMBER_WORDS.search(" ".join(words))
    return bool(named and NAME.fullmatch(text))


def has_words(text: str) -> bool:
    """Whether it holds a word: three letters or more that are neither a command nor a function nor a product."""
    words = re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{3,}", text)
    return any(word.lower() not in FUNCTIONS and (word != word.lower() or _is_word(word)) for word in words)


def _is_word(letters: str) -> bool:
    """Whether these are a word, and not variables side by side: abc, xyz, mnpq."""
    product = len(letters) <= 3 and not set(letters) & set("eio")
    in_a_row = "".join(sorted(letters)) in ascii_lowercase
    return len(letters) > 2 and not product and not in_a_row and bool(set(letters) & set("aeiouy"))


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
