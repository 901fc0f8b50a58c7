"""What one lent GPU can show in twelve minutes, part by part; the next call goes on with what is left.

    python -m experiments.benchmarks.gpu [--minutes 12] [--small] [--only NAME ...]

Each part writes results of its own with the device's name in them, and a log; one that is done is not made again at
this commit. A part that the time cuts off loses no row that it has measured. --small: tiny sizes on the CPU, to
rehearse.
"""

import subprocess
import sys
import time
from pathlib import Path

from experiments.benchmarks.common import RESULTS, commit, parser_of

BENCHMARKS = ("sampling", "scoring", "mask", "end_to_end", "scale")
PARTS = {  # the most telling first
    "kernels": ["-m", "pytest", "-q", "tests/kernels", "tests/rl/test_decoding.py", "-k", "kernel or gpu or captured"],
    **{name: ["-m", f"experiments.benchmarks.{name}"] for name in BENCHMARKS},
    "study": ["-m", "experiments", "study", "configs/study-gpu.yaml", "--workers", "16"],
}


def main(arguments: list[str] | None = None) -> None:
    """Every part that is left, while there is time; exit status 1 where one failed."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU: the figures mean nothing")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--logs", type=Path, default=RESULTS.parents[2] / "runs" / "gpu", help="what is done, and logs")
    given = parser.parse_args(arguments)
    end, outcomes, folder = time.monotonic() + 60 * given.minutes, {}, given.logs / (commit() or "-").rstrip("+")
    folder.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        done, left = folder / f"{name}.done", end - time.monotonic()
        if done.exists():
            outcomes[name] = "done before"
        elif left <= 0:
            outcomes[name] = "left: no time"
        else:
            outcomes[name] = _run(name, given.small, left, folder / f"{name}.log")
            if outcomes[name] == "done":
                done.touch()
        print(f"{name}: {outcomes[name]}", flush=True)
    sys.exit(any(outcome.startswith("FAILED") for outcome in outcomes.values()))


def _run(name: str, small: bool, seconds: float, log: Path) -> str:
    """One part, for so long at most."""
    command = [sys.executable, *PARTS[name]]
    if name in BENCHMARKS:
        command += ["--small", "--repeats", "1", "--json", str(log.with_suffix(".json"))] if small else []
        command += ["--device", "cpu" if small else "cuda"]
    elif small and name == "study":
        return "left out: it has no small size"
    with log.open("w", encoding="utf-8") as output:
        try:
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            return f"cut off by the time, {log} has its log"
    return "done" if status == 0 else f"FAILED with status {status}, see {log}"


if __name__ == "__main__":
    main()
