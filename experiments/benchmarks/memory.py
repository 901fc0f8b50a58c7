"""Resident memory of `python -m experiments demo`: a short demo is started, and its processes are watched.

    python -m experiments.benchmarks.memory [--json FILE] [--small]

Every process counts at its largest; `together` is the most that all held at one moment, pages that they share counted
once (PSS). Shapes are the demo's own; iterations and warm-up are few, which changes time alone. Linux only.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.common import options, store, table

ROOT = Path(__file__).parents[2]
SHORT = ("train.iterations=2", "eval.every=2", "warmup.max_steps=20", "warmup.target=0", "warmup.anneal=0")
TINY = ("rollout.prompts=2", "train.minibatches=1", "train.epochs=1", "eval.problems=2", "warmup.batch=8")


def tree(process: int) -> list[int]:
    """A process and all below it, whichever of its threads started them."""
    try:
        texts = [(thread / "children").read_text() for thread in Path(f"/proc/{process}/task").iterdir()]
    except OSError:  # ended meanwhile
        return [process]
    return [process, *(found for child in " ".join(texts).split() for found in tree(int(child)))]


def resident(process: int) -> tuple[float, float]:
    """MB of a process now: all its pages, and those it shares counted in part."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0, 0.0
    rss, pss = (int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) / 1024 for key in ("Rss", "Pss"))  # type: ignore[index]
    return rss, pss


def watch(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """The most MB of any process of the command, and of all together."""
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    largest = together = 0.0
    while started.poll() is None:
        now = [resident(process) for process in tree(started.pid)]
        largest = max([largest, *(rss for rss, _ in now)])
        together = max(together, sum(pss for _, pss in now))
        time.sleep(0.05)
    if started.returncode:
        raise subprocess.CalledProcessError(started.returncode, command)
    return {"largest_mb": largest, "together_mb": together}


def measure(small: bool) -> dict[str, float]:
    settings = [*SHORT, *(TINY if small else ())]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments", "demo", "--out", f"{folder}/demo"]
        return watch([*command, *settings], {**os.environ, "MINICPPO_CACHE": f"{folder}/cache"})


def main() -> None:
    args = options(__doc__, repeats=1).parse_args()
    rows = [measure(args.small)]
    print(table(rows, {"largest process, MB": "{largest_mb:.0f}", "together, MB": "{together_mb:.0f}"}))
    store(args, "memory", rows, command=f"python -m experiments demo {' '.join(SHORT)}")


if __name__ == "__main__":
    main()
