"""The speed and memory that this project set out to reach, beside what its committed benchmarks found.

    python -m minicppo.report.targets    # prints the table (make bench)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BENCH = ("mask", "sampling", "scoring", "end_to_end", "memory")  # what `make bench` runs


class Target(NamedTuple):
    """One target. why: what stands in the way where it is missed."""

    path: str
    asked: str
    found: str
    met: bool
    why: str
    gpu: str


def targets() -> str:
    """The table of `benchmarks/README.md`."""
    lines = ["| path | asked | found | met | why not | asked of a GPU |", "|---|---|---|---|---|---|"]
    for t in _targets():
        verdict, why = ("yes", "") if t.met else ("no", t.why)
        lines.append(f"| {t.path} | {t.asked} | {t.found} | {verdict} | {why} | {t.gpu} |")
    machine = _measured("sampling")["machine"]
    source = f"Found on {machine['processor']}, torch {machine['torch']}, by `make bench`. On a GPU: not measured"
    return "\n".join([*lines, "", f"{source} (`make bench-gpu`)."])


def _measured(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def _targets() -> Iterable[Target]:
    sampling = _measured("sampling")["rows"]
    for lengths, least, why in (
        ("equal", 2, "attention, bound by memory, takes half the time (at 30M products 3/4), and `generate` pays both"),
        ("spread", 3, "a step over few rows costs nearly what it costs over many: dispatch at 0.1M, weights at 30M"),
    ):
        rows = [row for row in sampling if row["lengths"] == lengths]
        yield Target(
            f"sampling, {lengths} lengths, 256 rows x 128 tokens",
            f"{least} x `generate`",
            ", ".join(f"{row['size']} {row['times_generate']:.2f}{_fewer(row)}" for row in rows),
            all(row["times_generate"] >= least for row in rows),
            why,
            "6 x",
        )
    (head,) = (row for row in _measured("scoring")["rows"] if row["part"] == "head" and row["vocabulary"] > 1e5)
    where = f"scoring, V = {head['vocabulary']:,}, K = 20"
    yield Target(
        f"{where}, memory at {head['memory_tokens']:,} tokens",
        "1/10 of plain",
        f"1/{1 / head['memory_ratio']:.0f}",
        head["memory_ratio"] <= 0.1,
        "",
        "1/10",
    )
    yield Target(
        f"{where}, time at {head['tokens']} tokens",
        "1.1 of plain",
        f"{head['time_ratio']:.2f}",
        head["time_ratio"] <= 1.1,
        "a busy machine: its products are most of it",
        "0.8; half of the matrix peak",
    )
    for row, least in zip(_measured("mask")["rows"], (10, 6), strict=True):
        yield Target(
            f"mask, {row['rows']} x {row['width']:,}, beside the loop",
            f"{least} x",
            f"{row['ratio']:.1f} x",
            row["ratio"] >= least,
            "a busy machine: the passes are bound by memory, the loop is not",
            "50 x",
        )
        yield Target(
            f"mask, {row['rows']} x {row['width']:,}, beside a copy",
            "6 copies",
            f"{row['copies']:.0f} copies",
            row["copies"] <= 6,
            "two `exp` and a `cumsum` alone fill six copies; some 25 eager passes follow",
            "3 copies",
        )
    for row in _measured("end_to_end")["rows"]:
        if row["kind"] == "peers" and row["parameters"] == "1M":
            yield Target(
                f"rollout and update, 1M, {row['lengths']} lengths, {row['responses']} responses",
                "2 x TRL",
                f"{row['ratio']:.2f} x",
                row["ratio"] >= 2,
                "both do the same products forward and backward, at the processor's peak, and attention as above",
                "3 x",
            )
    (memory,) = _measured("memory")["rows"]
    for key, which in (("largest_mb", "its largest process"), ("together_mb", "all its processes at once")):
        yield Target(
            f"memory of the demo, {which}",
            "700 MB",
            f"{memory[key]:,.0f} MB",
            memory[key] <= 700,
            "the display and two runs are processes of their own, each with 300 MB of imports (torch, transformers)",
            "",
        )
    took = sum(_measured(name).get("took_s", math.nan) for name in BENCH)
    if not math.isnan(took):
        yield Target(
            "`make bench`", "10 minutes", f"{took / 60:.1f} minutes", took <= 600, "a busy machine", "10 minutes"
        )


def _fewer(row: dict[str, Any]) -> str:
    return "" if row["rows"] == 256 else f" ({row['rows']} rows)"


if __name__ == "__main__":
    print(targets())
