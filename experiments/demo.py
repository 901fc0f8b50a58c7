"""The demo: four methods from one warm-up, side by side, with everything written down.

The setting is the preset `misled` at a learning rate at which a mask decides. The warm-up's demonstrations are wrong
about products more often than right, so the policy is wrong where it is most sure, and has something to learn. What
one seed can show is that training fails without a mask and succeeds with one. It cannot rank the masks.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.workers import follow, start_workers, tell
from minicppo.cli.console import results_table
from minicppo.cli.progress import RunProgress
from minicppo.files import write_atomically
from minicppo.plots.results import Result, results
from minicppo.plots.runs import Run, load_run
from minicppo.rl.config import RunConfig, load_config
from minicppo.rl.run_dir import RunDir

# the trainer is imported by the workers, matplotlib after them: this process only watches, and stays small

METHODS = ("cppo-exact", "dppo-exact", "grpo", "none")
PRESET, PRESSURE = "misled", ["train.lr=1e-3", "train.iterations=60"]
RESULTS = Path(__file__).parents[1] / "results"
SEEDS = RESULTS / "summary.json"  # the same comparison over many seeds


def run_demo(
    out: Path,
    console: Console,
    *,
    fresh: bool = False,
    workers: int = 2,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Train `METHODS` under `PRESET`, write figures, table and summary.json to `out`; returns the summary.

    Finished runs are kept and unfinished ones go on from their last checkpoint, unless `fresh`. Runs go to `workers`
    processes of one thread each.

    Raises:
        ValueError: `out` holds a run of other settings.
    """
    with_kept_starts(out)
    configs = {name: load_config(PRESET, [*PRESSURE, f"method={name}", f"name={name}", *overrides]) for name in METHODS}
    for name, config in configs.items():
        claim(out / name, config, fresh)
    with RunProgress(console) as display:
        _train_all(configs, out, workers, display)
    runs = [load_run(out / name) for name in METHODS]
    rows = results(runs)
    summary = {"preset": PRESET, "seed": configs["none"].seed, "methods": {row.method: vars(row) for row in rows}}
    trace = runs[METHODS.index("cppo-exact")].trace
    shown = trace is None or trace.masks_something
    reading = what_to_look_at(rows, preset_as_it_is=not overrides, masked_at_the_end=shown)
    present(runs, out, reading, console, {"summary.json": summary})
    return summary


def with_kept_starts(out: Path) -> None:
    """Start where the study's runs did: from a warm-up of its own a run may turn out otherwise, on every processor.

    A warm-up rounds differently there, and at a learning rate at which training just holds that decides.
    """
    cache = Path(os.environ.setdefault("MINICPPO_CACHE", str(out / ".cache")))
    for start in (RESULTS / "starts").iterdir():
        if not (cache / start.name).exists():
            shutil.copytree(start, cache / start.name)


def claim(folder: Path, config: RunConfig, fresh: bool) -> None:
    """Make sure that a run may go to the folder, and on from what is there; if `fresh`, what is there goes.

    Raises:
        ValueError: it holds a run of other settings.
    """
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "config.yaml").exists() and RunDir(folder).config() != config:
        raise ValueError(f"{folder} holds a run of other settings: choose another --out, or start over with --fresh")


def present(
    runs: Sequence[Run],
    out: Path,
    reading: str,
    console: Console,
    records: Mapping[str, object],
    more: Sequence[object] = (),
    notes: str = "",
) -> None:
    """Write report, figures and `records` (as JSON) to `out`; print table, `more`, how to read it, and the files."""
    from minicppo.plots.report import write_report

    files = write_report(runs, out, "\n\n".join(filter(None, (reading, notes))))
    for name, record in records.items():
        write_atomically(out / name, (json.dumps(record, indent=1) + "\n").encode())
    for shown in (results_table(results(runs)), *more):
        console.print(shown)
    console.print(reading)
    there = [path.name for path in files] + sorted(path.name for path in out.glob("*.html")) + list(records)
    console.print(f"\nIn {out}: {', '.join(there)}")


def what_to_look_at(rows: Sequence[Result], *, preset_as_it_is: bool = True, masked_at_the_end: bool = True) -> str:
    """How to read the result, with this run's own numbers, and what it does not show; lines fit a terminal.

    What is known of the preset is said of the preset alone: of changed settings nothing is.
    """
    by_method = {row.method: row for row in rows}
    bare, cppo = by_method["none"], by_method["cppo-exact"]
    alone, both = (100 * (share or 0.0) for share in (cppo.masked_prefix_only, cppo.masked_both))
    return f"""What to look at

- curves.png: held-out accuracy, before and as the mean of the last evaluations:
  {_move(bare)} without a mask,
  {_move(cppo)} with CPPO.{_fate(bare, cppo) if preset_as_it_is else ""}
- reasons.png: which test masks. Only CPPO has a prefix budget: it alone masked
  {alone:.2f} % of the tokens, and it and the token test together {both:.2f} %.
- drift.png: how far the policies move apart along a response, measured on the
  sampled token: a lower bound of what the token test limits.
- response.png: {_response(masked_at_the_end)}

What this does not show: which mask is best, and what another start would do.
One seed cannot.{how_far_seeds_differ() if preset_as_it_is else ""}"""


def _response(masked_at_the_end: bool) -> str:
    """What is on the picture of one response, which is of the last batch."""
    if masked_at_the_end:
        return """one response under CPPO, token by token: its divergence, the
  threshold that it met, and by which test it was masked, if by any."""
    return """one response of CPPO's last batch, token by token. It drifted so
  little that nothing was masked and the threshold stays flat; reasons.png says
  when the mask had work, and minicppo explain shows any response of your own."""


def _move(row: Result) -> str:
    before, after, likeliest, learned = (
        "-" if share is None else f"{100 * share:.0f}"
        for share in (row.before, row.after, row.greedy_before, row.greedy_after)
    )
    return f"{before} to {after} % of samples, {likeliest} to {learned} % of the likeliest answers"


def _fate(bare: Result, cppo: Result) -> str:
    """What became of this preset's two runs, and why."""
    if bare.after < bare.before and cppo.after > cppo.before:
        return """
  The demonstrations were wrong about products more often than right, so the
  right ones had to be found. With a mask they were; unmasked, two epochs carry
  the policy too far from the one that sampled, and training collapses."""
    return """
  Most runs of this setting collapse without a mask and learn with one; this one
  turned out otherwise, as single runs may."""


def how_far_seeds_differ() -> str:
    """Lowest and highest accuracy after, by method, in the committed study: the demo's part, else the headline."""
    parts = json.loads(SEEDS.read_text(encoding="utf-8"))["parts"] if SEEDS.is_file() else {}
    part = parts.get("demo", parts.get("headline", {"title": "", "rows": []}))
    told = [
        f"  {row['setting']} {row['arm']}: {row['lowest']:.2f} to {row['highest']:.2f}, {row['runs']} seeds"
        for row in part["rows"]
    ]
    return "\n".join([f"\nAccuracy after by seed, lowest to highest ({part['title']}, results/README.md):", *told])


def _train_all(configs: Mapping[str, RunConfig], out: Path, workers: int, display: RunProgress) -> None:
    """Bring every run to its end, after the warm-up that all of them start from."""
    waiting = [name for name in configs if not RunDir(out / name).finished]
    for name, config in configs.items():
        display.add(name, config.train.iterations, 0 if name in waiting else config.train.iterations)
    if not waiting:
        return
    pool, events = start_workers(workers, runs_each=1)  # a process a run, so that each one's peak memory is its own
    try:
        follow([pool.submit(_warm_up, configs[waiting[0]], waiting[0])], events, display.handle)
        jobs = [pool.submit(_train_one, configs[name], out / name, name) for name in waiting]
        follow(jobs, events, display.handle)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _warm_up(config: RunConfig, name: str) -> None:
    """Train the warm-up into the cache, or find it there."""
    from minicppo.rl.trainer import starting_policy

    starting_policy(config, partial(tell, name))


def _train_one(config: RunConfig, folder: Path, name: str) -> None:
    """One run to its end, in a process of its own."""
    from minicppo.rl.trainer import train_or_resume

    train_or_resume(config, folder, partial(tell, name))
