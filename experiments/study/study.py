"""A study from its YAML file to the table, the figures and the page."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.common import processor
from experiments.study.figures import draw_all
from experiments.study.page import page
from experiments.study.plan import StudyConfig, grid, run_config, selected
from experiments.study.plots import plots
from experiments.study.progress import StudyProgress
from experiments.study.runner import is_done, work_through
from experiments.study.summary import choose, rounded, summarise
from experiments.study.table import collect, read_table, write_table
from minicppo.cli.console import table
from minicppo.files import locked, write_atomically
from minicppo.rl.config import ConfigError

TABLE, SUMMARY, PAGE, FIGURES, MACHINES = "study.parquet", "summary.json", "README.md", "figures", "machines.json"


@contextmanager
def claimed(study: StudyConfig, out: Path) -> Iterator[None]:
    """Hold the folders of runs and of results for one process. Raises BlockingIOError where another one has them."""
    with ExitStack() as held:
        for folder in dict.fromkeys([out.resolve(), Path(study.results).resolve()]):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder, "study: wait for it, or give this one other folders (results and --out)"))
        yield


def run_study(
    study: StudyConfig, out: Path, workers: int, only: Sequence[str], console: Console, *, again: bool = False
) -> dict[str, str]:
    """Do what is missing of the chosen parts, tuning before what needs it; the table is written after each part.

    What the table holds is done, wherever it ran; `again` runs it once more here. Returns the runs that could not
    start, with the reason.

    Raises:
        ConfigError: a part whose thresholds have not been tuned.
    """
    failed: dict[str, str] = {}
    for name in selected(study, only):
        rows = update_table(study, out)
        winners = choose(study, rows)
        missing = {arm.tuned for arm in study.parts[name].arms.values() if arm.tuned} - winners.keys()
        if missing:
            told = ", ".join(sorted(missing))
            raise ConfigError(f"part {name!r} needs the thresholds of part {told!r}: finish that first (--only {told})")
        known = set() if again else set(rows["run"])
        runs = {cell.run: cell.config for cell in grid(study, name, winners) if cell.run not in known}
        if not runs:
            continue
        Path(study.results).mkdir(parents=True, exist_ok=True)
        note_machine(study)
        with StudyProgress(console, name, runs, out) as display:
            failed |= work_through(runs, out, workers, display.report)
    update_table(study, out)
    return failed


def update_table(study: StudyConfig, out: Path) -> pd.DataFrame:
    """Bring the table up to date with the runs under `out`, and return its rows."""
    path = Path(study.results) / TABLE
    rows = read_table(path)
    tuning = [cell for name, part in study.parts.items() if part.tunes for cell in grid(study, name, {})]
    winners = choose(study, collect(tuning, out, rows))  # what else belongs to the grid depends on them
    found = collect([cell for name in study.parts for cell in grid(study, name, winners)], out, rows)
    if found.empty or found.equals(rows):
        return found
    write_table(found, path)
    return read_table(path)  # in the table's precision


def write_report(study: StudyConfig, command: str) -> list[Path]:
    """Write summary, figures and page from the table alone; returns the files.

    Raises:
        FileNotFoundError: there is no table yet.
    """
    folder = Path(study.results)
    rows = read_table(folder / TABLE)
    if rows.empty:
        raise FileNotFoundError(f"{folder / TABLE} is not there or empty: run the study first")
    summary = summarise(study, rows)
    drawn = plots(study, rows, summary)
    pictures = draw_all(drawn, folder / FIGURES)
    summary["machines"] = json.loads((folder / MACHINES).read_text(encoding="utf-8"))
    summary = rounded(summary)  # the page then says what the README says, which is made of the file
    write_atomically(folder / SUMMARY, _json(summary))
    write_atomically(folder / PAGE, page(summary, command, drawn).encode())
    return [folder / PAGE, folder / SUMMARY, *pictures]


def plan_table(study: StudyConfig, out: Path, only: Sequence[str]) -> Table:
    """What each part would do: runs, those done, and the time left by the mean pace of this study's own runs.

    A run that an earlier arm or part has as well is counted there, and here as shared.
    """
    rows = read_table(Path(study.results) / TABLE)
    winners = choose(study, rows)
    once = rows.drop_duplicates(["run", "iteration"])
    there = set(once["run"])
    pace = once["seconds"].sum() / len(there) / 60 if there else float("nan")
    seen: set[str] = set()
    plan = []
    for name in selected(study, only):
        part = study.parts[name]
        cells = grid(study, name, winners)
        runs = {cell.run for cell in cells} - seen
        seen |= runs
        done = {run for run in runs if is_done(out / run) or run in there}
        arms = sum(max(1, len(arm.candidates)) for arm in part.arms.values())
        waiting = arms * part.seeds.count * len(part.settings) - len(cells)
        count = f"{len(runs)}" + (f" + {waiting}" if waiting else "")
        time = f"{pace * (len(runs) + waiting - len(done)):.0f}"
        shape = len(part.settings), arms, part.seeds.count
        plan.append((name, *shape, count, len(cells) - len(runs), len(done), time))
    heads = ("part", "settings", "arms", "seeds", "runs", "shared", "done", "minutes of one thread")
    shown = table(heads, plan, f"{study.name}: {study.preset}, results in {study.results}", words=1)
    shown.caption = "minutes: of what is left, at the mean pace of the runs there; long responses take longer"
    return shown


def note_machine(study: StudyConfig) -> None:
    """Add what the runs are made with here to what the results come from."""
    path, device = Path(study.results) / MACHINES, device_of(study)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    here = {
        "processor": processor(),
        "kernels": torch.backends.cpu.get_cpu_capability(),  # of equally named processors, what tells rounding apart
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads_per_run": run_config(study, []).threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    if here not in known:
        write_atomically(path, _json([*known, here]))


def device_of(study: StudyConfig) -> torch.device:
    """Where the runs are made."""
    return run_config(study, []).resolved_device()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
