"""The speed and memory that this project set out to reach, beside what its committed benchmarks found.

    python -m docs.tools.targets    # prints the tables (make bench)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[2] / "experiments" / "benchmarks" / "results"
BENCH = ("mask", "sampling", "scoring", "end_to_end")  # what `make bench` and `make bench-gpu` run
ON_GPU = "-cuda"  # ends the names of a GPU's results


class Target(NamedTuple):
    """One target. why: what stands in the way where it is missed."""

    path: str
    asked: str
    found: str
    met: bool
    why: str


def targets() -> str:
    """The tables of `experiments/benchmarks/README.md`: a CPU's, and a GPU's where there are results of one."""
    machine = measured("sampling")["machine"]
    text = [f"On {machine['processor']}, torch {machine['torch']} (`make bench`):", "", *_table(_on_cpu()), ""]
    if not all((RESULTS / f"{name}{ON_GPU}.json").is_file() for name in BENCH):
        return "\n".join([*text, "On a GPU (`make bench-gpu`): not measured."])
    machine = measured(f"sampling{ON_GPU}")["machine"]
    return "\n".join(
        [*text, f"On an {machine['device']}, torch {machine['torch']} (`make bench-gpu`):", "", *_table(_on_gpu())]
    )


def measured(name: str) -> dict[str, Any]:
    """One committed result."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def sampling_rows() -> list[dict[str, Any]]:
    """Sampling on the CPU; 30M parameters take half an hour and have a file of their own."""
    return [*measured("sampling")["rows"], *measured("sampling-large")["rows"]]


def _table(found: Iterable[Target]) -> list[str]:
    lines = ["| path | asked | found | met | why not |", "|---|---|---|---|---|"]
    for t in found:
        verdict, why = ("yes", "") if t.met else ("no", t.why)
        lines.append(f"| {t.path} | {t.asked} | {t.found} | {verdict} | {why} |")
    return lines


def _on_cpu() -> Iterable[Target]:
    for lengths, least, why in (
        ("equal", 2.5, "products take most of the time, and both make the same ones"),
        ("spread", 4, "a busy machine"),
    ):
        yield _sampling(sampling_rows(), lengths, least, why)
    for row, part in zip(measured("sampling")["rows"][::2], (0.12, 0.25), strict=True):
        yield Target(
            f"sampling, {row['size']}, equal lengths, of the speed of large products",
            f"{part:.0%}",
            f"{row['of_machine']:.0%}",
            row["of_machine"] >= part,
            "attention, and the cache that it reads",
        )
    head = _heads("scoring")[-1]
    yield Target(
        f"{_scoring(head)}, memory at {head['memory_tokens']:,} tokens", "1/10 of plain", *_memory(head), why=""
    )
    yield Target(
        f"{_scoring(head)}, time at {head['tokens']} tokens",
        "1.1 of plain",
        f"{head['time_ratio']:.2f}",
        head["time_ratio"] <= 1.1,
        "a busy machine: its products are most of it",
    )
    for row, least in zip(measured("mask")["rows"], (10, 6), strict=True):
        yield _loop(row, least, "a busy machine: the passes are bound by memory, the loop is not")
        yield _copies(row, 6, "two `exp` and a `cumsum` alone fill six copies; some 25 eager passes follow")
    yield from _peers("end_to_end", {"equal": 2.5, "spread": 3.5}, "both do the same products")
    (memory,) = measured("memory")["rows"]
    for key, which in (("largest_mb", "its largest process"), ("together_mb", "all its processes at once")):
        yield Target(
            f"memory of the demo, {which}",
            "700 MB",
            f"{memory[key]:,.0f} MB",
            memory[key] <= 700,
            "where runs cannot be forked, each has 300 MB of imports of its own (torch, transformers)",
        )
    took = sum(measured(name).get("took_s", math.nan) for name in (*BENCH, "memory"))
    if not math.isnan(took):
        why = "a slower or a busy processor"
        yield Target("`make bench`", "10 minutes", f"{took / 60:.1f} minutes", took <= 600, why)


def _on_gpu() -> Iterable[Target]:
    for lengths in ("equal", "spread"):
        yield _sampling(measured(f"sampling{ON_GPU}")["rows"], lengths, 6, "see below")
    for head in _heads(f"scoring{ON_GPU}"):
        path, share = f"{_scoring(head)}, d = {head['width']:,}", head["useful_gflops"] / head["products_gflops"]
        least = head["seconds"]["products"] / head["seconds"]["plain"]
        gradients = head["gradients_mb"] / head["peak_mb"]["plain"]
        why = f"the gradients, which are the result, are 1/{1 / gradients:.3g} themselves"
        yield Target(f"{path}, memory at {head['memory_tokens']:,} tokens", "1/10 of plain", *_memory(head), why=why)
        yield Target(
            f"{path}, time",
            "0.8 of plain",
            f"{head['time_ratio']:.2f}",
            head["time_ratio"] <= 0.8,
            f"its four products alone take {least:.2f}; plain keeps the logits and has three",
        )
        yield Target(f"{path}, of the speed of its products", "50%", f"{share:.0%}", share >= 0.5, "passes over memory")
    for row in measured(f"mask{ON_GPU}")["rows"]:
        yield _loop(row, 50, "see below")
        yield _copies(
            row, 3, "too few tokens to fill the GPU: one response's chain of reductions takes longer than its bytes"
        )
    why = "both launch the same kernels forward and backward"
    yield from _peers(f"end_to_end{ON_GPU}", {"equal": 3, "spread": 3}, why)


def _sampling(rows: list[dict[str, Any]], lengths: str, least: float, why: str) -> Target:
    rows = [row for row in rows if row["lengths"] == lengths]
    return Target(
        f"sampling, {lengths} lengths, 256 rows",
        f"{least} x `generate`",
        ", ".join(f"{row['size']} {row['times_generate']:.2f} ({row['cap']} tokens)" for row in rows),
        all(row["times_generate"] >= least for row in rows),
        why,
    )


def _heads(name: str) -> list[dict[str, Any]]:
    """The heads of the largest vocabulary."""
    heads = [row for row in measured(name)["rows"] if row["part"] == "head"]
    return [row for row in heads if row["vocabulary"] == max(head["vocabulary"] for head in heads)]


def _scoring(head: dict[str, Any]) -> str:
    return f"scoring, V = {head['vocabulary']:,}, K = 20"


def _memory(head: dict[str, Any]) -> tuple[str, bool]:
    return f"1/{1 / head['memory_ratio']:.3g}", head["memory_ratio"] <= 0.1


def _loop(row: dict[str, Any], least: float, why: str) -> Target:
    path = f"mask, {row['rows']} x {row['width']:,}, beside the loop"
    return Target(path, f"{least} x", f"{row['ratio']:.1f} x", row["ratio"] >= least, why)


def _copies(row: dict[str, Any], most: float, why: str) -> Target:
    path = f"mask, {row['rows']} x {row['width']:,}, beside a copy"
    return Target(path, f"{most} copies", f"{row['copies']:.1f} copies", row["copies"] <= most, why)


def _peers(name: str, asked: dict[str, float], why: str) -> Iterable[Target]:
    for row in measured(name)["rows"]:
        if row["kind"] == "peers":
            least = asked[row["lengths"]]
            yield Target(
                f"rollout and update, {row['parameters']}, {row['lengths']} lengths, {row['responses']} responses",
                f"{least} x TRL",
                f"{row['ratio']:.2f} x",
                row["ratio"] >= least,
                why,
            )


if __name__ == "__main__":
    print(targets())
