"""The speed and memory that this project set out to reach, beside what its committed benchmarks found.

    python -m minicppo.report.targets    # prints the table (make bench)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BENCH = ("mask", "sampling", "scoring", "end_to_end")  # what `make bench` and `make bench-gpu` run
ON_GPU = "-cuda"  # ends the names of a GPU's results


class Target(NamedTuple):
    """One target. asked: of a CPU, and of a GPU. why: what stands in the way where it is missed."""

    path: str
    asked: tuple[str, str]
    found: str
    met: bool
    why: str


def targets() -> str:
    """The table of `benchmarks/README.md`."""
    lines = [
        "| path | asked | found | met | why not | asked of a GPU | found there |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = all((RESULTS / f"{name}{ON_GPU}.json").is_file() for name in BENCH)
    for t, there in zip_longest(_targets(), _targets(ON_GPU) if measured else ()):
        verdict, why = ("yes", "") if t.met else ("no", t.why)
        if there is not None:
            on_gpu = f"{there.found}{'' if there.met else ', missed'}"
        else:
            on_gpu = "not measured" if t.asked[1] else ""
        lines.append(f"| {t.path} | {t.asked[0]} | {t.found} | {verdict} | {why} | {t.asked[1]} | {on_gpu} |")
    machine = _measured("sampling")["machine"]
    gpu = f"on {_measured('sampling' + ON_GPU)['machine']['device']}" if measured else "on a GPU: not measured"
    source = f"Found on {machine['processor']}, torch {machine['torch']}, by `make bench`; {gpu} (`make bench-gpu`)."
    return "\n".join([*lines, "", source])


def _measured(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def _targets(where: str = "") -> Iterable[Target]:
    """Every target beside what was found on the CPU, or on the GPU; those of both come first."""
    gpu = where == ON_GPU

    def of(cpu: float, other: float) -> float:
        return other if gpu else cpu

    sampling = _measured(f"sampling{where}")["rows"]
    if not gpu and (RESULTS / "sampling-large.json").is_file():
        large = _measured("sampling-large")["rows"]
        sampling = [row for row in sampling if row["size"] not in {row["size"] for row in large}] + large
    for lengths, least, why in (
        ("equal", 2, "attention, bound by memory, takes half the time (at 30M products 3/4), and `generate` pays both"),
        ("spread", 3, "a step over few rows costs nearly what it costs over many: dispatch at 0.1M, weights at 30M"),
    ):
        rows = [row for row in sampling if row["lengths"] == lengths]
        yield Target(
            f"sampling, {lengths} lengths, 256 rows x 128 tokens",
            (f"{least} x `generate`", "6 x"),
            ", ".join(f"{row['size']} {row['times_generate']:.2f}{_fewer(row)}" for row in rows),
            all(row["times_generate"] >= of(least, 6) for row in rows),
            why,
        )
    head = [row for row in _measured(f"scoring{where}")["rows"] if row["part"] == "head"][-1]
    path = f"scoring, V = {head['vocabulary']:,}, K = 20"
    yield Target(
        f"{path}, memory at {head['memory_tokens']:,} tokens",
        ("1/10 of plain", "1/10"),
        f"1/{1 / head['memory_ratio']:.0f}",
        head["memory_ratio"] <= 0.1,
        "",
    )
    share = head["useful_gflops"] / head["products_gflops"]
    yield Target(
        f"{path}, time at {head['tokens']} tokens",
        ("1.1 of plain", "0.8; half of the matrix peak"),
        f"{head['time_ratio']:.2f}" + (f"; {share:.0%} of its products' speed" if gpu else ""),
        head["time_ratio"] <= of(1.1, 0.8) and (share >= 0.5 or not gpu),
        "a busy machine: its products are most of it",
    )
    for row, least in zip(_measured(f"mask{where}")["rows"], (10, 6), strict=True):
        yield Target(
            f"mask, {row['rows']} x {row['width']:,}, beside the loop",
            (f"{least} x", "50 x"),
            f"{row['ratio']:.1f} x",
            row["ratio"] >= of(least, 50),
            "a busy machine: the passes are bound by memory, the loop is not",
        )
        yield Target(
            f"mask, {row['rows']} x {row['width']:,}, beside a copy",
            ("6 copies", "3 copies"),
            f"{row['copies']:.0f} copies",
            row["copies"] <= of(6, 3),
            "two `exp` and a `cumsum` alone fill six copies; some 25 eager passes follow",
        )
    for row in _measured(f"end_to_end{where}")["rows"]:
        if row["kind"] == "peers" and row["parameters"] == "1M":
            yield Target(
                f"rollout and update, 1M, {row['lengths']} lengths, {row['responses']} responses",
                ("2 x TRL", "3 x"),
                f"{row['ratio']:.2f} x",
                row["ratio"] >= of(2, 3),
                "both do the same products forward and backward, at the processor's peak, and attention as above",
            )
    if not gpu:
        yield from _of_the_cpu()


def _of_the_cpu() -> Iterable[Target]:
    (memory,) = _measured("memory")["rows"]
    for key, which in (("largest_mb", "its largest process"), ("together_mb", "all its processes at once")):
        yield Target(
            f"memory of the demo, {which}",
            ("700 MB", ""),
            f"{memory[key]:,.0f} MB",
            memory[key] <= 700,
            "where runs cannot be forked, each has 300 MB of imports of its own (torch, transformers)",
        )
    took = sum(_measured(name).get("took_s", math.nan) for name in (*BENCH, "memory"))
    if not math.isnan(took):
        why = "a slower or a busy processor: 9.2 minutes on another"
        yield Target("`make bench`", ("10 minutes", ""), f"{took / 60:.1f} minutes", took <= 600, why)


def _fewer(row: dict[str, Any]) -> str:
    return "" if row["rows"] == 256 else f" ({row['rows']} rows)"


if __name__ == "__main__":
    print(targets())
