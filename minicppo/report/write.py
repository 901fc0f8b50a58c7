"""Everything there is to see of some runs, as files in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minicppo.report.curves import curves, masked_share
from minicppo.report.drift import drift_by_position
from minicppo.report.response import one_response
from minicppo.report.runs import Run, labels
from minicppo.report.style import save
from minicppo.report.tables import markdown_table, results


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write the table and every figure these runs have data for; returns the paths."""
    runs = list(runs)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.md"
    table.write_text(markdown_table(results(runs)), encoding="utf-8")
    written = [
        table,
        save(curves(runs), folder / "curves.png"),
        save(masked_share(runs), folder / "masked_share.png"),
    ]
    traced = [(run, label) for run, label in zip(runs, labels(runs), strict=True) if run.trace is not None]
    if traced:
        written.append(save(drift_by_position(runs), folder / "drift_by_position.png"))
    for run, label in traced:
        if run.trace is not None and run.trace.threshold is not None:  # rules that compare a divergence with c_t
            name = label.replace(" ", "_").replace("(", "").replace(")", "").replace("/", "-")
            written.append(save(one_response(run), folder / f"response_{name}.png"))
    return written
