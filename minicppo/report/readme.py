"""The generated blocks of the Markdown pages: written from the registry and from committed results, never by hand.

    python -m minicppo.report.readme          # rewrite the blocks in place (make docs)

A block stands between `<!-- generated: NAME -->` and `<!-- end -->`; a test fails when a page lags behind its sources.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

from minicppo.rules import METHODS, get_method

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "REPRODUCTION.md")
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def methods_table() -> str:
    """One line a family: its token weight, what it needs, the paper, and the names of its variants."""
    lines = ["| family | token weight g | decides by | source | names |", "|---|---|---|---|---|"]
    families: dict[str, list[str]] = {}
    for name, spec in METHODS.items():
        families.setdefault(spec.family, []).append(name)
    for family, names in families.items():
        found = get_method(names[0]).family
        listed = ", ".join(f"`{name}`" for name in names)
        formula = found.formula.replace("|", r"\|")  # else it ends the table's cell
        lines.append(f"| {family} | `{formula}` | {found.level} | {found.source} | {listed} |")
    return "\n".join(lines)


def mask_benchmark() -> str:
    """The committed measurement of the mask beside the per-sequence loop."""
    result = json.loads((ROOT / "benchmarks" / "results" / "mask.json").read_text(encoding="utf-8"))
    machine = result["machine"]
    lines = ["| responses x tokens | per-sequence loop | `cppo_mask` | times faster |", "|---|---|---|---|"]
    for row in result["rows"]:
        lines.append(
            f"| {row['rows']} x {row['width']:,} | {row['loop_ms']:.0f} ms | {row['batched_ms']:.0f} ms "
            f"| {row['ratio']:.1f} |"
        )
    lines.append(
        f"\nMedian of {result['repeats']} in turns, one thread of {machine['processor']}, torch {machine['torch']}."
    )
    return "\n".join(lines)


def readings() -> str:
    """The committed comparison of readings of the paper, from `python -m benchmarks.readings`."""
    result = json.loads((ROOT / "benchmarks" / "results" / "readings.json").read_text(encoding="utf-8"))
    lines = [
        "| key | first reading | second reading | masked, first | second | verdicts that differ | gradient turns |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in result["rows"].items():
        shares = " | ".join(f"{row[name]:.2%}" for name in ("masked_first", "masked_second", "verdicts_differ"))
        lines.append(
            f"| `{key}` | {row['first']} | {row['second']} | {shares} | {row['gradient_turns_degrees']:.1f}° |"
        )
    source = f"{result['updates']} updates, seed {result['seed']}; `python -m benchmarks.readings` measures again."
    return "\n".join([*lines, "", source])


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": methods_table,
    "mask-benchmark": mask_benchmark,
    "readings": readings,
}


def filled(text: str) -> str:
    """The page with every block written anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}\n{found[3]}", text)


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
