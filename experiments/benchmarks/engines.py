"""The same run on both engines: `learn` by our own trainer and in TRL, with the same seeds, no group left out.

    python -m experiments.benchmarks.engines [--runs runs/engines]

A run that its folder holds is only read, or ended where it was stopped.
"""

import json
import statistics
from itertools import takewhile
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import RESULTS, parser_of
from minicppo.engines import trl
from minicppo.files import write_atomically
from minicppo.plots.runs import load_run
from minicppo.rl import trainer
from minicppo.rl.config import load_config

SEEDS = 8
ENGINES = {"local": trainer, "trl": trl}
EQUAL = 0.01  # the most by which drift may differ in an update that is the same on both, of drift or of 0.001


def run(engine: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Its rows: of updates, and of rollouts."""
    if folder.exists():
        ENGINES[engine].resume(folder)
    else:
        overrides = ["train.drop_groups=false", f"engine={engine}", f"seed={seed}"]
        ENGINES[engine].train(load_config("learn", overrides), folder)
    found = load_run(folder)
    return [*found.rows("update"), *found.rows("rollout")]


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Updates of the run, and means over them: drift, share masked; the mean reward of all rollouts."""
    keys = {"drift": "drift", "masked": "mask/frac", "reward": "reward"}
    found = {name: statistics.fmean(row[key] for row in rows if key in row) for name, key in keys.items()}
    return {"updates": sum("drift" in row for row in rows), **{name: round(x, 6) for name, x in found.items()}}


def together(pair: list[list[dict[str, Any]]]) -> int:
    """How many updates the two runs make before the first whose drift differs."""
    drifts = zip(*([row["drift"] for row in rows if "drift" in row] for rows in pair), strict=True)
    return sum(1 for _ in takewhile(lambda two: abs(two[0] - two[1]) <= EQUAL * max(*two, 1e-3), drifts))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/engines"))
    runs, found = parser.parse_args().runs, {}
    for seed in range(SEEDS):
        pair = {engine: run(engine, seed, runs / f"{engine}-{seed}") for engine in ENGINES}
        row = {**{engine: means(rows) for engine, rows in pair.items()}, "together": together(list(pair.values()))}
        found[f"seed {seed}"] = row
        print(seed, row, flush=True)
    write_atomically(RESULTS / "engines.json", f"{json.dumps(found, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
