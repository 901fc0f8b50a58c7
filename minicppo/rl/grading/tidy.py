"""One spelling for answers: what differs only in typography becomes the same text of plain LaTeX."""

import re
import unicodedata
from collections.abc import Callable

from minicppo.rl.grading.extraction import last_boxed

SIGNS = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi ", "θ": r"\theta ",
    "∞": r"\infty ", "°": r"^\circ ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "∅": r"\emptyset ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "’": "'", "“": '"', "”": '"',
})  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
LEAD = re.compile(
    r"(?i)^(?:so|thus|hence|therefore)?,?\s*(?:the\s+)?(?:final\s+)?(?:correct\s+)?"
    r"(?:answer|result)\s*(?:is\b|:|=)\s*:?\s*"
)
TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|underline|operatorname)\s*\{([^{}]*)\}"
REPLACED: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [  # in this order
    (  # a row break of a matrix that lost one of its two backslashes
        r"(?s)\\begin\{[pbv]?matrix\}.*\\end\{[pbv]?matrix\}",
        lambda matrix: re.sub(r"(?<!\\)\\(?=[\d\-.])", r"\\\\", matrix[0]),
    ),
    *((TEXT, r" \1 "), (TEXT, r" \1 ")),  # one may hold another
    (r"(?<!\\)\\[()\[\]]|\\?\$|[€£]|`", ""),  # mathematics mode and money
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits|!)(?![a-zA-Z])", ""),
    (r"\\[dt]frac(?![a-z])", r"\\frac"),
    (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-z])", " "),
    (r"\{,\}", ","),
    (r"\\%|\\?\s*percent\b", "%"),
    (r"(?:\s*\^\s*\{?\s*\\circ\s*\}?|\\degree)\s*[CF]?\s*$", " degree"),
    (r"\*\*", "^"),
    (r"(?<=[\d\)])\s*\*\s*(?=[\d\(\\a-zA-Z])", r"\\cdot "),
    (r"(?<![\\a-zA-Z])(sqrt|pi)(?![a-zA-Z])", r"\\\1"),
    (r"(?<![\\a-zA-Z])((?:arc)?(?:sin|cos|tan)|cot|sec|csc|ln|log|exp)(?=\s*[(^_\\]| \d| [a-z]\b)", r"\\\1"),
    (r"\\varnothing(?![a-z])", r"\\emptyset"),
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"√\s*(\d+|[a-zA-Z])", r"\\sqrt{\1}"),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    (r"\\(sin|cos|tan|cot|sec|csc|ln)(?=[a-z])(?!h\b)", r"\\\1 "),  # \cotx is no command
    (r"\s+", " "),
]
PATTERNS = [(re.compile(pattern), replacement) for pattern, replacement in REPLACED]


def tidy(answer: str) -> str:
    """The answer without boxes, dollar signs, words of introduction and final stops, in ASCII where it can be.

    >>> tidy("The answer is **$\\\\dfrac12$**."), tidy("x² − ４"), tidy(r"\\boxed{\\text{even}}")
    ('\\\\frac{1}{2}', 'x^{2} - 4', 'even')
    """
    text = LEAD.sub("", ascii_mathematics(answer).strip().rstrip(".").strip("*_ "))
    boxed = last_boxed(text)
    text = text if boxed is None else boxed
    text = text.strip("*_ ")
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s*(?:[.,;:]|(?<![\d)}])!)+$", "", text.strip(" '\"*"))
    return text[1:-1].strip() if re.fullmatch(r"\{[^{}]*\}", text) else text  # braces around all of it show nothing


def ascii_mathematics(text: str) -> str:
    """Digits of any script, superscripts and mathematical signs in ASCII or LaTeX; invisible characters dropped."""
    text = re.sub(r"[⁻⁰¹²³⁴-⁹]+", lambda match: f"^{{{match.group().translate(SUPERSCRIPTS)}}}", text)
    shown = (c for c in text.translate(SIGNS) if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc", "Mn"))
    return "".join(str(unicodedata.decimal(c, "")) or unicodedata.normalize("NFKC", c) for c in shown)
