"""The page of the machine-checked statements: `python -m theory.coq.statements` writes its list from the .v files."""

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
MARKERS = ("<!-- statements: python -m theory.coq.statements -->", "<!-- /statements -->")
THEOREM = re.compile(r"\(\*\* ((?:(?!\*\)).)*?) \*\)\nTheorem (\w+)(.*?)\.\nProof\.", flags=re.DOTALL)


class Statement(NamedTuple):
    """A theorem as its file has it."""

    number: str  # the paper's, or ours: "Proposition 4"
    words: str
    name: str
    file: str
    text: str  # Coq, from "Theorem" to the full stop


def files() -> list[Path]:
    """The .v files in the order in which they are checked."""
    return [FOLDER / name for name in re.findall(r"^\w+\.v$", (FOLDER / "_CoqProject").read_text(), flags=re.M)]


def statements() -> list[Statement]:
    """Every theorem. Raises ValueError if one has no comment right above it that begins with its number."""
    found = []
    for path in files():
        source = path.read_text(encoding="utf-8")
        for comment, name, rest in THEOREM.findall(source):
            number, _, words = " ".join(comment.split()).partition(". ")
            found.append(Statement(number, words, name, path.name, f"Theorem {name}{rest}."))
        missing = set(re.findall(r"^Theorem (\w+)", source, flags=re.M)) - {s.name for s in found}
        if missing:
            raise ValueError(f"{path.name}: no comment with number and words above {', '.join(sorted(missing))}")
    return found


def listing() -> str:
    """The table, and under it each statement as its file has it."""
    rows = ["| number | in words | theorem |", "|---|---|---|"]
    for s in statements():
        words = s.words.replace("|", "\\|")
        rows.append(f"| {s.number} | {words} | `{s.name}` in [{s.file}]({s.file}) |")
    return "\n".join([*rows, "", "```coq", "\n\n".join(s.text for s in statements()), "```"])


def with_listing(page: str) -> str:
    """The page with what stands between its markers written anew. Raises ValueError if a marker is missing."""
    start, end = MARKERS
    if start not in page or end not in page:
        raise ValueError(f"theory/coq/README.md lost its markers {start!r} and {end!r}")
    return page.split(start)[0] + f"{start}\n{listing()}\n{end}" + page.split(end)[1]


if __name__ == "__main__":
    README.write_text(with_listing(README.read_text(encoding="utf-8")), encoding="utf-8")
