"""Words for messages, and texts from elsewhere (answers, data, settings, paths) as they can be shown without harm."""

import difflib
import importlib
import re
from collections.abc import Collection
from typing import Any


def nearest(word: str, known: Collection[str]) -> str:
    """The tail of an error about an unknown name: the likeliest meaning, or all that exist."""
    word, folded = word[:100].lower(), {name.lower(): name for name in known}
    longer = [name for name in folded if word and name.startswith(word)]
    close = difflib.get_close_matches(word, longer or list(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def many(count: int, what: str) -> str:
    """A count with its noun.

    >>> many(1, "response"), many(2000, "response")
    ('1 response', '2,000 responses')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def short(value: object, most: int = 100) -> str:
    """How Python writes a value, cut off where it is long: for messages about what may be anything.

    >>> short("a" * 10_000, 5)
    "'aaaa ... (10,002 characters)"
    """
    return cut(repr(value), most)


def cut(text: str, most: int) -> str:
    """The text, without what is beyond so many characters."""
    return text if len(text) <= most else f"{text[:most]} ... ({len(text):,} characters)"


def install(extra: str) -> str:
    """The command for it, in a clone.

    >>> install("math")
    "pip install -c constraints.txt -e '.[math]'"
    """
    return f"pip install -c constraints.txt -e '.[{extra}]'"


def optional(module: str, purpose: str, extra: str = "") -> Any:
    """Import a module that minicppo does without. Raises ModuleNotFoundError, saying how it is installed.

    extra: of pyproject.toml; none: the package alone, in whatever version goes with the rest.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0].replace("_", "-")
        how = install(extra) if extra else f"pip install {package}"
        raise ModuleNotFoundError(f"{purpose} needs the package {package!r}: {how}") from error


# control characters but tab and newline, what turns the direction of writing or hides, and halves of characters
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
WHITE = str.maketrans({"\n": "⏎", " ": "·", "\t": "⇥"})  # for texts of tokens, so that none looks empty


def printable(text: str) -> str:
    r"""The text with what a terminal would obey, and an eye not see, as escapes.

    >>> printable("\x1b[2J5")
    '\\x1b[2J5'
    """
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def markdown_cell(text: str) -> str:
    r"""The text as a cell of a Markdown table that shows it letter by letter: no link, no HTML, no emphasis, one line.

    >>> markdown_cell("a|b <i> [x](y)")
    'a\\|b &lt;i&gt; \\[x\\](y)'
    """
    plain = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*|\[\]~])", r"\\\1", plain)
