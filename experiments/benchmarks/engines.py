"""The same run on both engines: `learn` by our own trainer and in TRL, with the same seeds, no group left out.

    python -m experiments.benchmarks.engines [--runs runs/engines]

A run that its folder holds is only read, so that a stopped measurement goes on where it was.
"""

import argparse
import json
import statistics
from pathlib import Path

from experiments.benchmarks.common import RESULTS
from minicppo.files import write_atomically
from minicppo.plots.runs import load_run
from minicppo.rl.config import load_config

SEEDS = 3


def trained(engine: str, seed: int, folder: Path) -> dict[str, float]:
    """Updates of the run, and means over them: drift, share masked; the mean reward of all rollouts."""
    if not folder.exists():
        if engine == "trl":
            from minicppo.engines.trl import train
        else:
            from minicppo.rl.trainer import train
        train(load_config("learn", ["train.drop_groups=false", f"engine={engine}", f"seed={seed}"]), folder)
    run = load_run(folder)
    updates, rewards = run.rows("update"), [row["reward"] for row in run.rows("rollout")]
    means = {name: statistics.fmean(row[key] for row in updates) for name, key in
             (("drift", "drift"), ("masked", "mask/frac"))}  # fmt: skip
    return {"updates": len(updates), **means, "reward": statistics.fmean(rewards)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/engines"))
    runs = parser.parse_args().runs
    found = {}
    for seed in range(SEEDS):
        for engine in ("local", "trl"):
            row = trained(engine, seed, runs / f"{engine}-{seed}")
            found[f"{engine}/{seed}"] = {name: round(value, 6) for name, value in row.items()}
            print(engine, seed, found[f"{engine}/{seed}"], flush=True)
    write_atomically(RESULTS / "engines.json", f"{json.dumps(found, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
