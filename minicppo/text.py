"""Words for messages: the nearest known name, and how an optional part is installed."""

import difflib
from collections.abc import Collection


def nearest(word: str, known: Collection[str]) -> str:
    """The tail of an error about an unknown name: the likeliest meaning, or all that exist."""
    longer = [name for name in known if word and name.startswith(word)]
    close = difflib.get_close_matches(word, longer or list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def install(extra: str) -> str:
    """The command for it, in a clone.

    >>> install("math")
    "pip install -c constraints.txt -e '.[math]'"
    """
    return f"pip install -c constraints.txt -e '.[{extra}]'"
