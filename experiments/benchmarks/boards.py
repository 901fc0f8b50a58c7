"""What it costs to be watched: an iteration of a run that is shown on a board beside one that is not.

    python -m experiments.benchmarks.boards                # every board that is installed
    python -m experiments.benchmarks.boards --cpu-time     # processor time of all threads: on a machine that is busy

The preset `learn`, whose iterations are short, is trained with our files alone and with a board besides, turn about,
the order changing: the same run to the bit. Counted are the iterations after the first, the last of which has an
evaluation and shows responses; what a board takes to start and to end, once a run, is not. Of the pairs' differences
the median counts. The time in calls to the board, in the thread that trains, is taken apart: it is known more exactly
than a difference of two runs.
"""

import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch

from experiments.benchmarks.common import options, store, table
from minicppo.rl import boards, trainer
from minicppo.rl.config import load_config

BOARDS = tuple(boards.MAKERS)
SMALL = "train.iterations=3 train.epochs=1 eval.problems=8 eval.samples=1 rollout.prompts=8 warmup=null".split()
COLUMNS = {
    "log": "`{board}`",
    "an iteration without, with (s)": "{without:.2f}, {with_it:.2f}",
    "more, median of the pairs (%)": "{more_percent:.1f}",
    "smallest, largest": "{least_percent:.1f}, {most_percent:.1f}",
    "in calls to the board (%)": "{calls_percent:.2f}",
}


class Timed(boards.Boards):
    """Boards that add up the seconds spent in them."""

    clock: ClassVar[Callable[[], float]] = time.perf_counter
    spent: ClassVar[float] = 0.0

    def row(self, row: Mapping[str, Any]) -> None:
        start = Timed.clock()
        super().row(row)
        Timed.spent += Timed.clock() - start


def turn(board: str | None, args: Namespace, folder: Path) -> tuple[float, float]:
    """Seconds of an iteration, and how many of them were spent in the board."""
    log = "log=[files]" if board is None else f"log=[files,{board}]"
    small = SMALL if args.small else []
    config = load_config("learn", [log, f"train.iterations={args.iterations}", f"eval.every={args.iterations}", *small])
    stamps: list[tuple[float, float]] = []

    def look(row: Mapping[str, Any]) -> None:
        if row["kind"] == "iteration":
            stamps.append((Timed.clock(), Timed.spent))

    trainer.train(config, folder, look)
    took, spent = ((last - first) / (len(stamps) - 1) for first, last in zip(stamps[0], stamps[-1], strict=True))
    return took, spent


def measure(board: str, args: Namespace) -> dict[str, Any]:
    """The row of a board: `args.repeats` pairs of runs."""
    pairs: list[dict[bool, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TRACKIO_DIR"] = temporary
        for number in range(args.repeats):
            pairs.append({})
            for watched in (number % 2 == 0, number % 2 == 1):
                found = turn(board if watched else None, args, Path(temporary) / f"{board}-{number}-{watched}")
                pairs[-1][watched] = found
    more = [100 * (pair[True][0] / pair[False][0] - 1) for pair in pairs]
    row = {
        "board": board,
        "without": statistics.median(pair[False][0] for pair in pairs),
        "with_it": statistics.median(pair[True][0] for pair in pairs),
        "more_percent": statistics.median(more),
        "least_percent": min(more),
        "most_percent": max(more),
        "calls_percent": 100 * statistics.median(pair[True][1] / pair[False][0] for pair in pairs),
        "pairs_percent": more,
    }
    print(table([row], COLUMNS))
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--iterations", type=int, default=6, help="of each run, the last with an evaluation")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    Timed.clock = time.process_time if args.cpu_time else time.perf_counter
    rows = []
    offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    with patch.dict(os.environ, offline), patch.object(trainer, "Boards", Timed):
        for board in BOARDS:
            if find_spec(board) is None:
                print(f"{board} is not installed: left out")
                continue
            rows.append(measure(board, args))
            store(args, "boards", rows, done=False)
    store(args, "boards", rows, iterations=args.iterations, clock=Timed.clock.__name__)


if __name__ == "__main__":
    main()
