"""Problems that are the same but for typography, a few words, or the form in which they ask for the answer."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from minicppo.text import optional

NEAR, NEAR_SHORT, SHORT = 85, 96, 80  # per cent of the characters that agree; of statements up to so many characters
ROWS = 1024  # compared at a time, so that many problems with the same numbers fit into memory
SAME = {word: str(i) for i, word in enumerate("zero one two three four five six seven eight nine ten".split())} | {
    **{r"\leq": r"\le", r"\leqslant": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge"},
    **{r"\equal": "=", r"\plus": "+", r"\minus": "-"},
}
NUMBERED = re.compile(r"\s*(?:problem\s*)?\(?\d{1,3}[.)]\s+")
FORM = re.compile(  # what is asked for besides, in data whose answers were made whole numbers
    r"(?:the |your )?(?:original |final )?answer (?:is|should be|can be) (?:of|in)\b"
    r"|(?:please )?(?:give|provide|express|write|report) (?:your|the|an) (?:final )?(?:answer|value|number)"
    r"|原始(?:的)?答案|答案的(?:形式|格式)|请(?:给出|提供|计算)"
)
SHOWS_NOTHING = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|(?:text|display)style|text\w*|math\w*|operatorname|limits|q?quad|[dt]?frac)(?![a-z])"
    r"|\\[lc]?dots[a-z]?|\\[,;:! ]|[$~{}]"
)
DRAWING = re.compile(r"(?s)\[asy\].*?\[/asy\]")
TOKEN = re.compile(r"\\?[a-z]+|\d|[-+*/=<>^|!%]|[^\W\d_]")


def statement(question: str) -> str:
    """What a question asks, in one spelling: words, digits and operators, each between spaces.

    >>> statement(r"What is $\\\\left| m - \\\\dfrac12 \\\\right|$ ?."), statement("What is $$|m-\\\\frac{1}{2}|$$")
    ('what is | m - 1 2 |', 'what is | m - 1 2 |')
    """
    text = SHOWS_NOTHING.sub(" ", unicodedata.normalize("NFKC", question).lower())
    undrawn = DRAWING.sub("", text)
    text = undrawn if len(undrawn) > 2 * SHORT else text
    start = NUMBERED.match(text)
    text = text[start.end() :] if start else text
    form = FORM.search(text, len(text) // 3)
    tokens = TOKEN.findall(text[: form.start()] if form else text)
    return " ".join(SAME.get(token, token) for token in tokens)


def near_duplicates(questions: Sequence[str]) -> list[int]:
    """For each question the index of the first that is the same or near to it, directly or through others.

    Near are statements with the same digits in the same order, of whose characters 85 % agree (96 % in short ones):
    rapidfuzz's ratio. The same words with other digits are another problem, with another answer: kept on purpose.
    Raises ModuleNotFoundError: rapidfuzz is missing.
    """
    return list(_groups(tuple(questions)))


@lru_cache(4)  # a run asks of the same problems at its start and at every evaluation
def _groups(questions: tuple[str, ...]) -> tuple[int, ...]:
    fuzz, process = (optional(f"rapidfuzz.{name}", "finding near-duplicates", "math") for name in ("fuzz", "process"))
    statements = [statement(question) for question in questions]
    first = {text: i for i, text in reversed(list(enumerate(statements)))}
    blocks: dict[str, list[int]] = defaultdict(list)
    for text, i in first.items():
        blocks["".join(re.findall(r"\d", text))].append(i)
    group = list(range(len(questions)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    for block in blocks.values():
        texts = [statements[i] for i in block]
        for start in range(0, len(block) if len(block) > 1 else 0, ROWS):
            rows = texts[start : start + ROWS]
            scores = process.cdist(rows, texts, scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.uint8)
            for i, j in np.argwhere(scores):
                short = min(len(rows[i]), len(texts[j])) <= SHORT
                if start + i != j and (not short or scores[i, j] >= NEAR_SHORT):
                    low, high = sorted((root(block[start + i]), root(block[j])))
                    group[high] = low
    return tuple(root(first[text]) for text in statements)


def repeated(questions: Sequence[str], others: Sequence[str]) -> list[int]:
    """The indexes of the questions that are, or nearly are, one of `others`; see `near_duplicates`."""
    group = near_duplicates([*others, *questions])
    theirs = set(group[: len(others)])
    return [i for i, each in enumerate(group[len(others) :]) if each in theirs]
