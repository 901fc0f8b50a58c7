"""Does another checkout train to the same bytes? Two iterations of every method in each, on one thread of a CPU.

    python -m experiments.benchmarks.same_bytes ../before [--methods cppo-exact grpo]

Compares metrics.jsonl byte for byte, and the numbers of trace.safetensors, in which -0 is 0; columns and methods that
only this checkout has are passed over, and what changed on purpose. The settings are tiny and harsh, so that the masks
bind: several epochs at a high learning rate. Each checkout trains its own warm-up, so that this is compared too.
MINICPPO_KERNELS=0 where one of the two has no kernels of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

COMPARED = ("metrics.jsonl", "trace.safetensors")
ON_PURPOSE = {"mismatch"}  # columns that changed their meaning: now of the first prompt's responses alone
SETTINGS = """
task: {name: chain, options: {steps: 2}}
model: {hidden_size: 32, intermediate_size: 32, layers: 1, heads: 2}
rollout: {prompts: 8, group_size: 6}
train: {iterations: 2, minibatches: 2, epochs: 3, lr: 1.5e-3, lr_warmup: 1}
eval: {every: 1, problems: 4, samples: 2}
warmup: {error_rate: 0.2, target: 0.1, check_every: 20, anneal: 10, max_steps: 400, lr: 1.0e-2}
"""
PATHS = {  # of the trainer, each tried with one method
    "stale rollouts": ["method=cppo-exact", "train.staleness=3"],
    "micro-batches": ["method=cppo-topk", "train.micro_batch=3", "rollout.batch=4"],
    "token-mean": ["method=grpo", "train.loss_agg_mode=token-mean", "train.normalize_std=true"],
    "unequal prompts": ["method=dppo", "task=addition", "task.options.low=7", "task.options.prompt='{a}+{b}='"],
    "bfloat16 rollouts": ["method=cppo", "rollout.autocast=bfloat16"],
    "small steps": ["method=trm-both", "train.lr=1e-4"],
}


def work(folder: Path, only: list[str]) -> None:
    """Train every case with the `minicppo` that is imported, each into a folder of its own."""
    from minicppo.rl.config import load_config
    from minicppo.rl.trainer import train
    from minicppo.rules import METHODS

    settings = folder / "settings.yaml"
    settings.write_text(SETTINGS)
    cases = {name: [f"method={name}"] for name in METHODS} | PATHS
    for name, overrides in cases.items():
        if not only or name in only:
            train(load_config(settings, overrides), folder / "runs" / name)


def main() -> None:
    """Train in both, print what is equal, and exit with status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--methods", nargs="*", default=[], help="only these [default: all, and paths of the trainer]")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work(given.other, given.methods)
    checkouts = (Path(__file__).resolve().parents[2], given.other.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / side for side in ("here", "there")]
        for checkout, folder in zip(checkouts, folders, strict=True):
            folder.mkdir()
            # -P keeps this file's own folder off the import path
            command = [sys.executable, "-P", __file__, "--work", str(folder)]
            options = ["--methods", *given.methods] if given.methods else []
            ours = {"PYTHONPATH": str(checkout), "MINICPPO_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
            subprocess.run([*command, *options], check=True, cwd=folder, env=os.environ | ours)
        differ = compare(*folders)
    print(f"{differ} differ" if differ else "all equal")
    raise SystemExit(bool(differ))


def compare(here: Path, there: Path) -> int:
    """Print a row for each case; returns how many of those that both have differ."""
    names, known = ([run.name for run in sorted((folder / "runs").iterdir())] for folder in (here, there))
    differ = 0
    print(f"{'case':32}{'masked':>8}  {'  '.join(COMPARED)}")
    for name in known:
        found = [[(folder / "runs" / name / file) for folder in (here, there)] for file in COMPARED]
        same = [all(path.is_file() for path in pair) and same_content(*pair) for pair in found]
        differ += not all(same)
        words = "  ".join("equal" if each else "DIFFERS" for each in same)
        print(f"{name:32}{masked(there / 'runs' / name):>8}  {words}")
    print(f"only here: {', '.join(name for name in names if name not in known) or 'none'}")
    return differ


def same_content(here: Path, there: Path) -> bool:
    """Equal bytes; or of metrics equal rows, but for columns that are new or changed on purpose; of traces numbers."""
    if here.read_bytes() == there.read_bytes():
        return True
    if here.suffix == ".safetensors":
        ours, theirs = load_file(here), load_file(there)
        return all(
            name in ours and ours[name].dtype == theirs[name].dtype and np.array_equal(ours[name], theirs[name])
            for name in theirs
        )
    ours, theirs = ([json.loads(line) for line in path.read_text().splitlines()] for path in (here, there))
    return len(ours) == len(theirs) and all(
        row.get(key) == value
        for row, other in zip(ours, theirs, strict=True)
        for key, value in other.items()
        if key not in ON_PURPOSE
    )


def masked(run: Path) -> str:
    """The masked share of a run, in percent."""
    summary = json.loads((run / "summary.json").read_text()) if (run / "summary.json").is_file() else {}
    return f"{100 * summary['masked_share']:.1f} %" if summary.get("masked_share") is not None else "-"


if __name__ == "__main__":
    main()
