"""Is this checkout slower than another? Both do the same work in turns, each in a process of its own.

    python -m experiments.benchmarks.beside ../before [--turns 7] [--threads 1] [--only mask] [--cpu]

Sampling, scoring (forward and backward), iterations of the trainer, and the mask. A process stays for all turns, so
that what is loaded or compiled once does not count; each first turn is thrown away. The ratio is the median of the
turns' ratios, which a machine that is busy for a while does not move; with --cpu it is of processor time, which others'
work hardly moves, but which leaves out what other processes do for a run. Status 1 where one is over its limit.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
SIZES = {
    "0.1M": {"hidden_size": 64, "intermediate_size": 128, "layers": 2},
    "1M": {"hidden_size": 128, "intermediate_size": 512, "layers": 4},
}
SHAPES = ((512, 2048), (64, 8192))
LIMITS = {"sampling": 1.03, "scoring": 1.03, "rollout and update": 1.03, "mask": 1.25}
clock = time.perf_counter
NAMES = [f"{kind}, {size}" for kind in LIMITS if kind != "mask" for size in SIZES]
NAMES += [f"mask, {rows} x {width}" for rows, width in SHAPES]


class Worker:
    """A process that imports `minicppo` from one checkout and does what it is told."""

    def __init__(self, checkout: Path, threads: int, options: list[str], scratch: Path):
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        environment |= {"MINICPPO_CACHE": str(scratch)}
        command = [sys.executable, "-P", __file__, str(checkout), "--work", *options]
        self.process = subprocess.Popen(
            command, cwd=scratch, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def seconds(self, name: str) -> float:
        """How long one turn of it took.

        Raises:
            RuntimeError: the process ended; it has said why.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("took "):
                return float(line.split()[1])
        raise RuntimeError(f"{name} ended in {self.process.args!r}")


def work(checkout: Path, small: bool, cpu: bool) -> None:
    """Do what the lines of standard input name, and say how long each took."""
    global clock
    import minicppo

    clock = time.process_time if cpu else time.perf_counter
    assert Path(minicppo.__file__).is_relative_to(checkout), f"{minicppo.__file__} is not of {checkout}"
    ready: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        name = line.strip()
        kind, what = name.split(", ")
        if name not in ready:
            ready[name] = mask(what, small) if kind == "mask" else trainer(kind, what, small)
        print("took", ready[name](), flush=True)


def trainer(kind: str, size: str, small: bool) -> Callable[[], float]:
    """Turns of the sampler, of the scorer, or of the whole trainer, with a reward that no group agrees on."""
    from minicppo.rl.config import validate
    from minicppo.rl.policy import Policy, build_policy
    from minicppo.rl.sampling import sample
    from minicppo.rl.seeding import generator_for
    from minicppo.rl.tasks.chain import ChainTask
    from minicppo.rl.trainer import train

    class Endless(Policy):
        """Its responses end at the cap alone."""

        @property
        def ends(self) -> tuple[int, ...]:
            return ()

        @property
        def eos_id(self) -> int:  # by which older checkouts know an end
            return -1

    ChainTask.score = lambda self, problem, response: float(sum(map(ord, response)) % 2)  # type: ignore[method-assign]
    prompts = 4 if small else 16
    config = validate({
        "device": "cpu",
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "model": {"hidden_size": 32, "intermediate_size": 32, "layers": 1} if small else SIZES[size],
        "task": {"name": "chain", "options": {"steps": 1 if small else 8}},
        "method": "cppo",
        "rollout": {"prompts": prompts, "group_size": 8},
        "train": {"iterations": 4, "minibatches": 4, "lr": 1e-6, "autocast": "off"},
        "eval": {"every": 4, "problems": 2, "samples": 1},
        "warmup": None,
    })  # fmt: skip
    if kind == "rollout and update":

        def iterations() -> float:
            ends: dict[int, float] = {}
            updates = []

            def heard(event: Any) -> None:
                if event["kind"] == "iteration":
                    ends[event["iteration"]] = clock()
                updates.extend([event] if event["kind"] == "update" else [])

            with tempfile.TemporaryDirectory() as folder:
                train(config, Path(folder) / "run", heard)
            assert len(updates) == 16, "no minibatch was without a difference in reward"
            return ends[3] - ends[1]  # evaluations stand before and after

        return iterations
    plain = build_policy(config.model, config.make_task(), 0)
    policy = Endless(plain.model, plain.tokenizer)
    ids = [[2] * 16 for _ in range(8 * prompts)]

    def sampled() -> Any:
        return sample(policy, ids, 8 if small else 64, 1.0, generator_for(0, "beside"))

    if kind == "sampling":
        return lambda: timed(sampled)
    rollout, score = sampled(), scorer()
    return lambda: timed(lambda: score(policy, rollout, 1.0).log_probs.sum().backward())


def scorer() -> Callable[..., Any]:
    """The pass that gives a rollout's log-probs, whose name has changed."""
    for module, name in (("log_probs", "response_log_probs"), ("log_probs", "score"), ("scoring", "score")):
        try:
            return getattr(import_module(f"minicppo.rl.{module}"), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError("this checkout scores a rollout by a name that is not known here")


def mask(shape: str, small: bool) -> Callable[[], float]:
    """Turns of the mask, over responses of half to all of the width, in batches that keep it busy for a while."""
    import torch

    from minicppo import cppo_mask

    rows, width = map(int, shape.split(" x "))
    width = width // 64 if small else width
    rng = torch.Generator().manual_seed(0)
    mu = 2 * torch.rand(rows, width, generator=rng).log().clamp(min=-6)
    pi = mu + 0.02 * torch.logspace(0, 0.95, rows)[:, None] * torch.randn(rows, width, generator=rng)
    valid = torch.arange(width) < torch.randint(width // 2, width + 1, (rows, 1), generator=rng)
    inputs = pi.clamp(max=0), mu, torch.randn(rows, generator=rng), valid

    def several() -> None:
        for _ in range(5):
            out = cppo_mask(*inputs, delta=0.15, delta_b=0.02, w_min=0.8, cap_factor=2.0)
            assert out.token_mask.shape == out.threshold.shape

    return lambda: timed(several) / 5


def timed(function: Callable[[], object]) -> float:
    start = clock()
    function()
    return clock() - start


def main(arguments: list[str] | None = None) -> None:
    """Take turns, and say what each costs here and there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--turns", type=int, default=7, help="of each, after one that does not count")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--only", default="", help="what begins with this")
    parser.add_argument("--small", action="store_true", help="tiny sizes: the figures mean nothing")
    parser.add_argument("--cpu", action="store_true", help="processor time instead of time")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.work:
        work(given.other, given.small, given.cpu)
        return
    slower = []
    print("| | there | here | times as long | lowest, highest | limit |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        options = [name for name in ("--small", "--cpu") if getattr(given, name[2:])]
        checkouts = given.other.resolve(), HERE
        there, here = (Worker(checkout, given.threads, options, Path(scratch)) for checkout in checkouts)
        for name in [name for name in NAMES if name.startswith(given.only)]:
            took: dict[Worker, list[float]] = {there: [], here: []}
            for turn in range(given.turns + 1):
                for worker in (there, here) if turn % 2 else (here, there):
                    took[worker].append(worker.seconds(name))
            before, now = took[there][1:], took[here][1:]
            ratios = [b / a for a, b in zip(before, now, strict=True)]
            ratio, limit = statistics.median(ratios), LIMITS[name.split(",")[0]]
            a, b = (1e3 * statistics.median(times) for times in (before, now))
            ends = f"{min(ratios):.2f}, {max(ratios):.2f}"
            print(f"| {name} | {a:.1f} ms | {b:.1f} ms | {ratio:.3f} | {ends} | {limit:.2f} |", flush=True)
            slower += [name] if ratio > limit else []
        for worker in (there, here):
            worker.process.communicate()
    if slower:
        sys.exit(f"slower than the limit: {'; '.join(slower)}")


if __name__ == "__main__":
    main()
