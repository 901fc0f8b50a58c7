"""The results as one tidy table: a row for each iteration of each cell, kept as Parquet.

`accuracy` and its standard error are of held-out problems and stand where the run was evaluated; `reward` is the mean
score of the iteration's rollout batch, that is the sampled accuracy on fresh training problems before its updates.
Masked shares, drift and the like are means over the iteration's updates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from experiments.study.plan import Cell
from experiments.study.runner import DIVERGED, is_done
from minicppo.rl.run_dir import RunDir
from minicppo.rules import get_method

Row = dict[str, Any]
Key = tuple[str, str, str, int]  # part, setting, arm, seed

LABELS = ("part", "setting", "arm", "method", "params", "run", "status")
COUNTS = ("seed", "iteration", "updates")
EVALUATED = {"accuracy": "accuracy", "accuracy_se": "accuracy_se", "greedy": "greedy_accuracy"}
ROLLED_OUT = {"reward": "reward", "format_rate": "format_rate", "length": "length"}
UPDATED = {
    "masked": "mask/frac",
    "masked_token_only": "mask/token_only",
    "masked_prefix_only": "mask/prefix_only",
    "masked_both": "mask/both",
    "gated": "gate/frac",
    "drift": "drift",
    "divergence_p99": "div/p99",
    "delta_b": "budget/delta_b",
    "entropy": "entropy",
}
CERTIFIED = {
    "surrogate": "certificate/surrogate",
    "gain": "certificate/gain",
    "gain_low": "certificate/gain_low",
}
NUMBERS = (*EVALUATED, *ROLLED_OUT, *UPDATED, *CERTIFIED, "seconds")
INSTALL = "pip install -c constraints.txt -e '.[study]'"


@dataclass(frozen=True)
class Curve:
    """One cell's rows as arrays over its iterations; NaN where there is no such number.

    An iteration's row holds the rollout and the updates made with it, and the evaluation before them; the last row has
    an evaluation alone.
    """

    key: Key
    method: str
    params: dict[str, Any]
    run: str
    status: str
    values: dict[str, np.ndarray] = field(repr=False)

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The iterations at which a number exists, and the number."""
        y = self.values[name]
        there = ~np.isnan(y)
        return self.values["iteration"][there], y[there]


def rows_of(cell: Cell, folder: Path) -> list[Row]:
    """The rows of one finished cell. A run that diverged counts as accuracy 0 from there on."""
    run = RunDir.open(folder)
    by_iteration: dict[int, Row] = {}
    method = get_method(cell.config.method.name, **cell.config.method.params)
    diverged = (folder / DIVERGED).is_file()
    labels = {
        **_place(cell),
        "method": method.name,
        "params": json.dumps(dict(method.params), default=str, sort_keys=True),
        "run": cell.run,
        "status": "diverged" if diverged else "finished",
    }
    last = cell.config.train.iterations
    for i in range(last + 1):
        by_iteration[i] = {**labels, "iteration": i, "updates": 0, **dict.fromkeys(NUMBERS)}
    sums: dict[int, dict[str, list[float]]] = {i: {} for i in by_iteration}
    for row in run.rows():
        target = by_iteration[row["iteration"]]
        if row["kind"] == "update":
            target["updates"] += 1
            for name, key in UPDATED.items():
                if row.get(key) is not None:
                    sums[row["iteration"]].setdefault(name, []).append(row[key])
        else:
            names = {"eval": EVALUATED, "rollout": ROLLED_OUT, "certificate": CERTIFIED}[row["kind"]]
            target |= {name: row.get(key) for name, key in names.items()}
    for i, found in sums.items():
        by_iteration[i] |= {name: sum(values) / len(values) for name, values in found.items()}
    for row in run.rows("timings.jsonl"):
        by_iteration[row["iteration"]]["seconds"] = row["rollout_s"] + row["update_s"] + row["eval_s"]
    if diverged:
        for i, row in by_iteration.items():
            if row["reward"] is None and i < last:
                row["reward"] = 0.0
        by_iteration[last] |= {"accuracy": 0.0, "accuracy_se": 0.0, "greedy": 0.0}
    return list(by_iteration.values())


def collect(cells: Iterable[Cell], out: Path, known: Sequence[Row]) -> list[Row]:
    """The rows of every cell whose run is done under `out`, or is in `known`, be it for another cell of equal settings.

    What `known` holds of cells that are no longer in the grid is dropped.
    """
    kept: dict[str, dict[int, Row]] = {}
    for row in known:
        kept.setdefault(row["run"], {})[row["iteration"]] = row
    rows: list[Row] = []
    for cell in cells:
        folder = out / cell.run
        if is_done(folder):
            rows += rows_of(cell, folder)
        else:
            rows += [row | _place(cell) for row in kept.get(cell.run, {}).values()]
    return rows


def curves(rows: Iterable[Row]) -> list[Curve]:
    """The rows, cell by cell."""
    cells: dict[Key, list[Row]] = {}
    for row in rows:
        cells.setdefault(_key(row), []).append(row)
    found = []
    for key, own in cells.items():
        own = sorted(own, key=lambda row: row["iteration"])
        values = {
            name: np.array([np.nan if row[name] is None else row[name] for row in own], dtype=float)
            for name in ("iteration", "updates", *NUMBERS)
        }
        first = own[0]
        found.append(Curve(key, first["method"], json.loads(first["params"]), first["run"], first["status"], values))
    return found


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as Parquet, the same rows as the same bytes."""
    arrow, parquet = _pyarrow()
    single, integer, text = arrow.float32(), arrow.int32(), arrow.dictionary(arrow.int32(), arrow.string())
    columns = dict.fromkeys(LABELS, text) | dict.fromkeys(COUNTS, integer) | dict.fromkeys(NUMBERS, single)
    schema = arrow.schema(list(columns.items()))
    table = arrow.table({name: [row[name] for row in rows] for name in columns}, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    parquet.write_table(table, scratch, compression="zstd")
    scratch.replace(path)


def read_table(path: Path) -> list[Row]:
    """The rows of a Parquet table; none if there is no such file."""
    _, parquet = _pyarrow()  # first: a study that could not write its table should not begin
    if not path.is_file():
        return []
    rows: list[Row] = parquet.read_table(path).to_pylist()
    return rows


def _place(cell: Cell) -> Row:
    return dict(zip(("part", "setting", "arm", "seed"), cell.key, strict=True))


def _key(row: Row) -> Key:
    return row["part"], row["setting"], row["arm"], row["seed"]


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the study's table is a Parquet file, which needs pyarrow: {INSTALL}") from error
    return pyarrow, pyarrow.parquet
