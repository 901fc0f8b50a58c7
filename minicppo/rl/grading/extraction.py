"""The answer that a response states: what the paper's protocol looks at, and nothing else of the response."""

import re

WINDOW = 300  # characters at the end of a response in which its answer must stand
STATED = re.compile(r"(?i)Answer[\s*_}]*[:：]\s*(?:(?:\$\$|\\\[)\s*)?([^\n]+)")  # a displayed one starts lower down

BRACE = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{|[{}]")
BARE = re.compile(  # a command with its arguments, a number or a letter
    r"\\boxed(?![a-zA-Z{])\s*(\\[a-z]+(?:\s*\{(?:[^{}]|\{[^{}]*\})*\})+|[-+]?\d[\d.,/]*(?<![.,])|[A-Za-z](?![A-Za-z]))"
)


def extract_answer(response: str) -> str | None:
    """What the last `Answer:` of the last 300 characters states, else what the last `\\boxed{}` there holds, if any.

    >>> extract_answer("So 6 x 7 = 42.\\nAnswer: 42"), extract_answer(r"hence \\boxed{7}."), extract_answer("42")
    ('42', '7', None)
    """
    window = response[-WINDOW:]
    stated = STATED.findall(window)
    found = stated[-1].strip() if stated else last_boxed(window)
    return found or None


def last_boxed(text: str) -> str | None:
    """What the last whole `\\boxed{}` (or `\\fbox{}`) holds, braces balanced, or one without braces; None without one.

    >>> last_boxed(r"$\\boxed{1}$, so \\boxed{\\frac{1}{2}}"), last_boxed(r"\\boxed 12.")
    ('\\\\frac{1}{2}', '12')
    """
    open_braces: list[int | None] = []  # where the content of a box starts; None for another brace
    last = (-1, -1)
    for match in BRACE.finditer(text):
        if match.group() != "}":
            open_braces.append(match.end() if len(match.group()) > 1 else None)
        elif open_braces:
            start = open_braces.pop()
            if start is not None:
                last = max(last, (start, match.start()))
    last = max([last, *(match.span(1) for match in BARE.finditer(text))])
    return text[last[0] : last[1]] if last[0] >= 0 else None
