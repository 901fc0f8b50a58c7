"""How an optional part of the package is installed."""


def install(extra: str) -> str:
    """The command for it, in a clone.

    >>> install("math")
    "pip install -c constraints.txt -e '.[math]'"
    """
    return f"pip install -c constraints.txt -e '.[{extra}]'"
