"""`minicppo watch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from minicppo.cli.console import console, say, stopped, table

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # values of a curve
CURVES = {
    "held-out accuracy": ("eval", "accuracy"),
    "greedy": ("eval", "greedy_accuracy"),
    "reward": ("rollout", "reward"),
    "response length": ("rollout", "length"),
    "dropped groups": ("rollout", "dropped_groups"),
    "mismatch": ("rollout", "mismatch"),
    "masked share": ("update", "mask/frac"),
    "drift": ("update", "drift"),
    "entropy": ("update", "entropy"),
    "gradient norm": ("update", "grad_norm"),
}


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, of a run started anywhere.")],
    every: Annotated[float, typer.Option(help="Seconds between looks.", min=0.2)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
) -> None:
    """Watch a run from another terminal: its curves so far, how far it is, and how long it still takes.

    Reads the run's files alone, and ends with the run.

    Example: `minicppo watch runs/stale-cppo-exact`
    """
    from rich.live import Live

    from minicppo.rl.run_dir import RunDir

    folder = RunDir.open(run)
    if once or not console.is_terminal:
        console.print(_view(run))
        return
    try:
        with Live(_view(run), console=console, auto_refresh=False) as live:
            while not folder.finished:
                time.sleep(every)
                live.update(_view(run), refresh=True)
    except KeyboardInterrupt:
        stopped(f"The run itself goes on; look again: minicppo watch {run}")
    say(f"{run} is finished")


def _view(path: Path) -> Table:
    from minicppo.plots.runs import load_run

    run = load_run(path)
    done = len(run.timings)  # a row an iteration
    total = int(run.config.get("train", {}).get("iterations", done))
    laps = [row["rollout_s"] + row["update_s"] + row["eval_s"] for row in run.timings]
    left = f", about {(total - done) * sum(laps[-10:]) / len(laps[-10:]) / 60:.1f} min left" if laps else ""
    rows = []
    for label, (kind, name) in CURVES.items():
        values = run.series(kind, name)[1].tolist()
        if values:
            rows.append((label, curve(values), f"{values[0]:.4g}", f"{values[-1]:.4g}"))
    title = f"{path}: {run.method}, iteration {done} of {total}{left if done < total else ''}"
    return table(("", "from the first to now", "first", "now"), rows, title)


def curve(values: list[Any]) -> str:
    """The values as bars between their least and their largest: at most `WIDTH` of them, each a mean of neighbours.

    >>> curve([0, 1, 2, 7])
    '▁▂▃█'
    """
    size = -(-len(values) // WIDTH)
    means = [sum(part) / len(part) for part in (values[i : i + size] for i in range(0, len(values), size))]
    low, span = min(means), (max(means) - min(means)) or 1
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)
