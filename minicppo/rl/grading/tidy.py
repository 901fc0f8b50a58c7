"""One spelling for answers: what differs only in typography becomes the same text of plain LaTeX."""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from minicppo.rl.grading.extraction import last_boxed

SIGNS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi ", "θ": r"\theta ",
    "∞": r"\infty ", "°": r"^\circ ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "ℝ": r"\mathbb{R}", "∅": r"\emptyset ", "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "’": "'", "“": '"', "”": '"',
    "…": r"\ldots ",
})  # fmt: skip
COMMANDS = {  # what stands for commands that show nothing else
    name: sign
    for sign, names in {
        "": "left right bigl bigr biggl biggr Bigl Bigr Biggl Biggr big bigg Big Bigg limits",
        " ": "bf it rm sf tt em tiny small large Large huge Huge textstyle displaystyle quad qquad",
        r"\frac": "dfrac tfrac",
        r"\le ": "leq leqslant",
        r"\ge ": "geq geqslant",
        r"\ne ": "neq",
        r"\approx ": "sim simeq",
        r"\emptyset ": "varnothing",
        r"\mathbb{R}": "R",
        " and ": "land wedge",
        " or ": "lor vee",
        **{"<": "lt", ">": "gt", "(": "langle", ")": "rangle"},
    }.items()
    for name in names.split()
}
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
LEAD = re.compile(
    r"(?i)^(?:so|thus|hence|therefore)?,?\s*(?:the\s+)?(?:final\s+)?(?:correct\s+)?"
    r"(?:(?:answer|ans|result)[\s*_]*(?:is\b|:|=)\s*:?\s*|=)"
)
END = re.compile(r"(?:\s|</?s>|<\|[^|<>]*\|>|<(?:eos|end_of_turn)>|\\)+$")  # what a template writes after it
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
TEXT = (
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|it|rm|sf|tt|normal)|boldsymbol|bm|pmb|mbox|underline|operatorname"
    r"|mathbin|(?:text|f)?color(?:box)?\s*(?:\[\w+\])?\s*\{[\w,.]+\})\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)


def repeated(found: re.Match[str]) -> str:
    """A periodic decimal as a fraction: 0.1(6), 0.1\\overline{6} and 0.166... are 15/90."""
    whole, fixed, period = found["whole"] or "0", found["fixed"], found["period"]
    if period is None:  # the digits themselves show what comes again
        shown = re.fullmatch(r"(\d*?)(\d+?)\2+", fixed)
        if shown is None:
            return found[0]
        fixed, period = shown[1], shown[2]
    over, under = int(fixed + period) - int(fixed or "0"), 10 ** len(fixed) * (10 ** len(period) - 1)
    return rf"\frac{{{int(whole) * under + over}}}{{{under}}}"


def ungrouped(found: re.Match[str]) -> str:
    """1,234 without its comma; but (1,234) is a pair."""
    return found[0] if found["open"] and found["close"] else found[0].replace(",", "")


REPLACED: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [  # in this order
    (  # a row break of a matrix that lost one of its two backslashes
        r"(?s)\\begin\{[pbv]?matrix\}.*\\end\{[pbv]?matrix\}",
        lambda matrix: re.sub(r"(?<!\\)\\(?=[\d\-.])", r"\\\\", matrix[0]),
    ),
    (  # a column as a point
        r"(?s)^[\s$]*\\begin\{([pb])matrix\}((?:(?!matrix)[^&])*?\\\\(?:(?!matrix)[^&])*?)(?:\\\\\s*)?"
        r"\\end\{\1matrix\}[\s$]*$",
        lambda column: "(" + re.sub(r"\\\\(?:\[\w+\])?", ",", column[2]) + ")",
    ),
    *((TEXT, r" \1 "), (TEXT, r" \1 ")),  # one may hold another
    (r"\\color\s*(?:\[\w+\])?\{[\w,.]+\}", " "),
    (r"(?<!\\)\\[()\[\]]|\\?\$|[€£]|`", ""),  # mathematics mode and money
    (r"\\([a-zA-Z]+)", lambda command: COMMANDS.get(command[1], command[0])),
    (r"\\!|(?<=\d)\\,(?=\d{3}(?!\d))", ""),  # 1\,000
    (r"(?<!\\)\\[,;: ]|~", " "),
    (r"\{,\}", ","),
    (r"\\%|\\?\s*percent\b", "%"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"\*\*", "^"),
    (r"\^\s*(-?\d+(?:\.\d+)?)", r"^{\1}"),
    (r"(?<=[\d\)])\s*\*\s*(?=[\d\(\\a-zA-Z])", r"\\cdot "),
    (r"(?<![\\a-zA-Z])(sqrt|pi)(?![a-zA-Z])", r"\\\1"),
    (r"(?i)\+?\s*(?:(?<![\\a-zA-Z])(?:infinity|inf|oo)|\\infty)(?![a-zA-Z])", r"\\infty "),
    (r"(?<![\\a-zA-Z])((?:arc)?(?:sin|cos|tan)|cot|sec|csc|ln|log|exp)(?=\s*[(^_\\]| \d| [a-z]\b)", r"\\\1"),
    (r"(?:\\sqrt|√)\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"√\s*(\d+|[a-zA-Z])|\\sqrt\s*(\d)", r"\\sqrt{\1\2}"),
    (r"\\frac\s*(\d)(?=\s*[\d{])", r"\\frac{\1}"),
    (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    (r"\\(sin|cos|tan|cot|sec|csc|ln)(?=[a-z])(?!h\b)", r"\\\1 "),  # \cotx is no command
    (r"(?<=\.)(\d*)\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\1\\overline{\2\3\4}"),  # 0.1\dot{6}
    (r"(?<=\.)(\d*)(?:\((\d+)\)|\\(?:bar|overline)\s*\{?\s*(\d+)\s*\}?)", r"\1\\overline{\2\3}"),  # 0.1(6)
    (
        r"(?P<whole>(?<![\d.])\d*)\.(?P<fixed>\d{0,40})"
        r"(?:\\overline\s*\{\s*(?P<period>\d{1,40})\s*\}|\s*(?:\.\.\.|\\[lc]?dots(?![a-z])))",
        repeated,
    ),
    (r"(?P<open>\\\{|[(\[])?\s*(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)\s*(?P<close>\\\}|[)\]])?", ungrouped),
    (r"^\s*[A-Za-z]\s*\\in(?![a-z])", ""),  # x \in (1, 2)
    (r"^\s*\](.*)\[\s*$", r"(\1)"),  # ]1, 2[
    (r"^\s*\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*(?::|\\mid(?![a-z])|\|)(.*)\\\}\s*$", r"\1"),  # {x : x > 2}
    (r"(?i)^\s*(?:the set of )?(?:all|every|any) real(?: number)?s?(?: [a-z])?\s*$", r"\\mathbb{R}"),
    (r"^\s*\\(?:mathbb|Bbb)\s*\{?R\}?\s*$", r"(-\\infty,\\infty)"),
    (r"(?i)^\s*(?:there (?:is|are) )?(?:no (?:real )?solutions?(?: exists?)?|(?:the )?empty set)\s*$", r"\\{\\}"),
    (r"^\s*\\?\{\s*\\?\}\s*$", r"\\emptyset"),
    (r"^([1-9]\d{0,2})((?: \d{3})+(?:\.\d+)?)\s*$", lambda number: number[0].replace(" ", "")),  # 1 000
    (r"(\d+)\s+(\d+)\s*/\s*(\d+)", r"\1\\frac{\2}{\3}"),  # 3 1/2
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\cdot "),
    (r"(?<=\d)[eE]([-+]?\d{1,3})(?![\d.])", r"\\cdot 10^{\1}"),
    (r"(?i)(?<=\d)\s+(hundred|thousand|million|billion)\b", lambda scale: rf" \cdot {SCALES[scale[1].lower()]}"),
    (r"^(?:[A-Za-z]\s*)?\\approx(?![a-z])", ""),
    (r"_\{(\w)\}", r"_\1"),
    (r"\s+", " "),
]
PATTERNS = [(re.compile(pattern), replacement) for pattern, replacement in REPLACED]


@lru_cache(maxsize=4096)  # the samples to a problem are compared with one right answer
def tidy(answer: str) -> str:
    """The answer without boxes, dollar signs, words of introduction and final stops, in ASCII where it can be.

    >>> tidy("The answer is **$\\\\dfrac12$**."), tidy("x² − ４"), tidy(r"\\boxed{\\text{even}}"), tidy("0.1(6)</s>")
    ('\\\\frac{1}{2}', 'x^{2} - 4', 'even', '\\\\frac{15}{90}')
    """
    text = END.sub("", ascii_mathematics(answer).strip())
    text = LEAD.sub("", text.strip().rstrip(".").strip("*_ "))
    boxed = last_boxed(text)
    text = (text if boxed is None else boxed).strip("*_ ")
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s*(?:[.,;:]|(?<![\d)}!])!)+$", "", text.strip(" '\"*"))
    return text[1:-1].strip() if re.fullmatch(r"\{[^{}]*\}", text) else text  # braces around all of it show nothing


def ascii_mathematics(text: str) -> str:
    """Digits of any script, superscripts and mathematical signs in ASCII or LaTeX; invisible characters dropped."""
    text = re.sub(r"[⁻⁰¹²³⁴-⁹]+", lambda match: f"^{{{match.group().translate(SUPERSCRIPTS)}}}", text)
    text = re.sub(r"(?:\d[\u0304\u0305])+", lambda match: rf"\overline{{{match.group()}}}", text)  # 3̅ repeats
    text = re.sub(r"(\d)\u0307", r"\\dot{\1}", text).replace("...", r"\ldots ")
    shown = (c for c in text.translate(SIGNS) if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc", "Mn"))
    return "".join(str(unicodedata.decimal(c, "")) or unicodedata.normalize("NFKC", c) for c in shown)
