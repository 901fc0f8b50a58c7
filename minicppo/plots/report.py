"""Everything there is to see of some runs, as files in one folder."""

from collections.abc import Sequence
from pathlib import Path

from minicppo.plots.curves import curves, masked_share
from minicppo.plots.drift import drift_by_position
from minicppo.plots.response import one_response
from minicppo.plots.results import markdown, result_rows, results, setting_rows
from minicppo.plots.runs import Run, labels
from minicppo.plots.style import save


def write_report(runs: Sequence[Run], folder: Path, notes: str = "") -> list[Path]:
    """Write report.md and every figure these runs have data for; returns the paths.

    The report holds the table, the settings that differ, and `notes`. response.png shows the first run whose rule
    compares a divergence with a threshold.
    """
    figures = {"curves": curves(runs), "reasons": masked_share(runs)}
    if any(run.trace is not None for run in runs):
        figures["drift"] = drift_by_position(runs)
    with_threshold = [run for run in runs if run.trace is not None and run.trace.threshold is not None]
    if with_threshold:
        figures["response"] = one_response(with_threshold[0])
    report, told = folder / "report.md", setting_rows(runs)
    parts = [
        f"# {', '.join(labels(runs))}",
        markdown(result_rows(results(runs)), numbers=True),
        f"Settings that differ:\n\n{markdown(told)}" if len(told) > 1 else "",
        notes,
        "\n\n".join(f"![{name}]({name}.png)" for name in figures),
    ]
    pictures = [save(figure, folder / f"{name}.png") for name, figure in figures.items()]
    report.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return [report, *pictures]
