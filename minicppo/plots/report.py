"""Everything there is to see of some runs, as files in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minicppo.plots.curves import curves, masked_share
from minicppo.plots.drift import drift_by_position
from minicppo.plots.response import one_response
from minicppo.plots.runs import Run, labels
from minicppo.plots.style import save
from minicppo.plots.tables import markdown_settings, markdown_table, results


def write_report(runs: Sequence[Run], folder: Path, notes: str = "") -> list[Path]:
    """Write report.md and every figure these runs have data for; returns the paths.

    The report holds the table, the settings that differ, and `notes`. response.png shows the first run whose rule
    compares a divergence with a threshold.
    """
    runs = list(runs)
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "report.md"
    written = [
        report,
        save(curves(runs), folder / "curves.png"),
        save(masked_share(runs), folder / "reasons.png"),
    ]
    if any(run.trace is not None for run in runs):
        written.append(save(drift_by_position(runs), folder / "drift.png"))
    tested = [run for run in runs if run.trace is not None and run.trace.threshold is not None]
    if tested:
        written.append(save(one_response(tested[0]), folder / "response.png"))
    pictures = "\n\n".join(f"![{path.stem}]({path.name})" for path in written[1:])
    told = markdown_settings(runs)
    told = told and f"Settings that differ:\n\n{told}"
    parts = [f"# {', '.join(labels(runs))}", markdown_table(results(runs)), told, notes, pictures]
    report.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return written
