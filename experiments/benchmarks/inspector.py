"""A large log inspected, beside parsing it alone: seconds, processor seconds, resident memory.

    python -m experiments.benchmarks.inspector [--megabytes 2000] [--turns 2] [--log /tmp/large.jsonl] [--json FILE]

The log is made first, of prime-rl's records with 700 tokens; one that is there is taken as it is. Each candidate is a
process of its own, and they take turns.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.common import RESULTS, machine, parser_of
from minicppo.files import write_atomically

PARSING = "import sys, orjson; print(sum(len(orjson.loads(line)) for line in open(sys.argv[1], 'rb')))"
CANDIDATES = {"orjson": ["-c", PARSING], "inspect": ["-m", "minicppo", "inspect", "--json"]}
TOKENS = 700


def make(path: Path, size: int) -> None:
    """A log of so many bytes: 256 responses of a policy that has drifted a little, over and over, at other steps."""
    rng, texts = np.random.default_rng(0), []
    for _ in range(256):
        mu = -rng.exponential(0.7, TOKENS)
        pi = np.minimum(mu + rng.normal(0, 0.05, TOKENS), -1e-6)
        row: dict[str, Any] = {"token_ids": rng.integers(0, 150_000, TOKENS).tolist(), "loss_mask": [True] * TOKENS}
        row |= {"position_ids": list(range(TOKENS)), "advantages": [float(rng.normal())] * TOKENS}
        row |= {"inference_logprobs": mu.round(6).tolist(), "trainer_logprobs": pi.round(6).tolist()}
        texts.append(json.dumps(row)[1:])
    written = line = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            written += file.write(f'{{"step": {line // 512}, {texts[line % 256]}\n')
            line += 1


def measured(command: list[str]) -> dict[str, float]:
    """A program run to its end."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with status {process.returncode}")
    took = time.perf_counter() - start
    return {"seconds": took, "processor": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss / 1024}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--log", type=Path, help="where the log goes and stays; else it is made and removed")
    parser.add_argument("--json", type=Path, default=RESULTS / "inspector.json", help="where the row goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = given.log or Path(folder) / "log.jsonl"
        if not log.exists():
            make(log, given.megabytes * 1_000_000)
        turns = [{name: measured([*how, str(log)]) for name, how in CANDIDATES.items()} for _ in range(given.turns)]
        size = log.stat().st_size
    found: dict[str, Any] = {"bytes": size, "turns": len(turns), "machine": machine()}
    for name in CANDIDATES:
        found[name] = {key: round(statistics.median(turn[name][key] for turn in turns), 1) for key in turns[0][name]}
    for key in ("seconds", "processor"):
        found[f"times_{key}"] = round(statistics.median(t["inspect"][key] / t["orjson"][key] for t in turns), 2)
    write_atomically(given.json, f"{json.dumps(found, indent=1)}\n".encode())
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
