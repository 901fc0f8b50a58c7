"""The results as one tidy table: a row for each iteration of each cell, kept as Parquet; and a row of scores a cell.

`accuracy` and its standard error are of held-out problems and stand where the run was evaluated; `reward` is the mean
score of the iteration's rollout batch, that is the sampled accuracy on fresh training problems before its updates.
Masked shares, drift and the like are means over the iteration's updates. The last iteration has an evaluation alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.study.plan import Cell
from experiments.study.runner import DIVERGED, is_done
from experiments.study.stats import area_under_curve, first_at, worst_window
from minicppo.files import write_atomically
from minicppo.rl.run_dir import RunDir
from minicppo.rules import get_method

try:
    import pandas as pd
    import pyarrow  # noqa: F401 - pandas reads and writes Parquet with it
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}: the study's table is read by pandas and kept as Parquet: "
        "pip install -c constraints.txt -e '.[study]'"
    ) from error

CELL = ["part", "setting", "arm", "seed"]
LABELS = ["part", "setting", "arm", "method", "params", "run", "status"]
COUNTS = ["seed", "iteration", "updates"]
LOGGED = {  # kind of a row of metrics.jsonl -> column -> key
    "eval": {"accuracy": "accuracy", "accuracy_se": "accuracy_se", "greedy": "greedy_accuracy"},
    "rollout": {"reward": "reward", "format_rate": "format_rate", "length": "length"},
    "update": {
        "masked": "mask/frac",
        "masked_token_only": "mask/token_only",
        "masked_prefix_only": "mask/prefix_only",
        "masked_both": "mask/both",
        "gated": "gate/frac",
        "drift": "drift",
        "divergence_p99": "div/p99",
        "delta_b": "budget/delta_b",
        "entropy": "entropy",
    },
    "certificate": {
        "surrogate": "certificate/surrogate",
        "gain": "certificate/gain",
        "gain_low": "certificate/gain_low",
    },
}
NUMBERS = [*(column for columns in LOGGED.values() for column in columns), "seconds"]
AROUND = ("before", "greedy_before", "greedy")
SCORES = ("area", "worst", "reach", "final")  # in the order of the protocol; `reach` is better where it is lower
REACHED, LAST = 0.9, 5  # accuracy that `reach` waits for, and the evaluations that `final` averages


def rows_of(cell: Cell, folder: Path) -> pd.DataFrame:
    """The rows of one finished cell. A run that diverged counts as accuracy 0 from there on."""
    run, last = RunDir.open(folder), cell.config.train.iterations
    log, times = pd.DataFrame(run.rows()), pd.DataFrame(run.rows("timings.jsonl"))
    rows = pd.DataFrame(index=pd.RangeIndex(last + 1, name="iteration"), columns=NUMBERS, dtype=float)
    for kind, columns in LOGGED.items():
        own = log[log["kind"] == kind]
        means = own.reindex(columns=list(columns.values())).astype(float).groupby(own["iteration"]).mean()
        rows[list(columns)] = means.reindex(rows.index)
    rows["updates"] = log.loc[log["kind"] == "update", "iteration"].value_counts().reindex(rows.index, fill_value=0)
    if len(times):
        rows["seconds"] = times.set_index("iteration")[["rollout_s", "update_s", "eval_s"]].sum(axis=1)
    diverged = (folder / DIVERGED).is_file()
    if diverged:
        rows.loc[: last - 1, "reward"] = rows.loc[: last - 1, "reward"].fillna(0.0)
        rows.loc[last, list(LOGGED["eval"])] = 0.0
    method = get_method(cell.config.method.name, **cell.config.method.params)
    labels = {
        "method": method.name,
        "params": json.dumps(dict(method.params), default=str, sort_keys=True),
        "run": cell.run,
        "status": "diverged" if diverged else "finished",
    }
    return rows.reset_index().assign(**_place(cell), **labels)


def collect(cells: Iterable[Cell], out: Path, known: pd.DataFrame) -> pd.DataFrame:
    """The rows of every cell whose run is done under `out`, or is in `known`, be it for another cell of equal settings.

    What `known` holds of cells that are no longer in the grid is dropped.
    """
    kept = dict(iter(known.drop_duplicates(["run", "iteration"]).groupby("run")))
    found = [known.iloc[:0]]
    for cell in cells:
        if is_done(out / cell.run):
            found.append(rows_of(cell, out / cell.run))
        elif cell.run in kept:
            found.append(kept[cell.run].assign(**_place(cell)))
    return _typed(pd.concat(found, ignore_index=True))


def write_table(rows: pd.DataFrame, path: Path) -> None:
    """Write the rows as Parquet, the same rows as the same bytes; numbers in single precision."""
    kinds = {"category": LABELS, "int32": COUNTS, "float32": NUMBERS}
    types = {column: kind for kind, columns in kinds.items() for column in columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, rows[list(types)].astype(types).to_parquet(None, index=False, compression="zstd"))


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a Parquet table; none if there is no such file."""
    return _typed(pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=[*LABELS, *COUNTS, *NUMBERS]))


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: the protocol's measures, accuracy before and after, whether it collapsed, its seconds.

    area: mean height of the held-out accuracy's curve; worst: lowest mean of the training reward over ten iterations
    after the first fifth; reach: iterations until an evaluation finds 0.9, one more than there are if none does; final:
    mean of the last five evaluations (`greedy`: of the greedy accuracy), the start not among them. A run has collapsed
    if `final` is below the accuracy that it started from.
    """
    found = []
    for place, run in rows.groupby(CELL, sort=False):
        at = run[["iteration", "accuracy", "greedy"]].dropna(subset="accuracy").to_numpy(float)
        iterations, accuracy, greedy = at.T
        reward = run["reward"].dropna().to_numpy(float)
        final = accuracy[1:][-LAST:].mean()
        found.append(
            dict(zip(CELL, place, strict=True))
            | {name: run[name].iloc[0] for name in ("method", "params", "run", "status")}
            | {"before": accuracy[0], "greedy_before": greedy[0], "greedy": greedy[1:][-LAST:].mean()}
            | {"area": area_under_curve(iterations, accuracy), "worst": worst_window(reward)}
            | {"reach": first_at(iterations, accuracy, REACHED), "final": final}
            | {"collapsed": final < accuracy[0], "seconds": run["seconds"].sum()}
        )
    columns = [*CELL, "method", "params", "run", "status", *AROUND, *SCORES, "collapsed", "seconds"]
    return pd.DataFrame(found, columns=columns)


def matrix(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """A number of the runs of one arm and setting: iterations by seeds, where every run has it."""
    return rows.pivot(index="iteration", columns="seed", values=name).dropna()


def _place(cell: Cell) -> dict[str, str | int]:
    return {"part": cell.part, "setting": cell.setting, "arm": cell.arm, "seed": cell.seed}


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    types = dict.fromkeys(LABELS, str) | dict.fromkeys(COUNTS, np.int64) | dict.fromkeys(NUMBERS, np.float64)
    return rows.astype(types)[list(types)]
