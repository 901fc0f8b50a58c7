"""Working through a grid: a pool of processes, each run resumable, nothing done twice.

A killed study loses nothing that was finished, and goes on from the checkpoints of what was not. Workers end with the
process that started them, so that a restarted study finds its runs free.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicppo.report.study.plan import Cell
from minicppo.rl.config import RunConfig
from minicppo.rl.rundir import RunDir, write_atomically
from minicppo.rl.trainer import resume, starting_policy, train
from minicppo.rl.warmup import cache_dir, warmup_key

DIVERGED = "diverged.json"  # why a run ended in numbers that are not finite; it would again
WARMUP = "warm-up"
EVENT_STEPS = 25  # of a warm-up
Report = Callable[[str, int], None]  # (run, iterations done), or (WARMUP, steps done)
_events: Any = None  # a worker's line to the process that started it


@dataclass(frozen=True)
class Outcome:
    """What became of a list of runs: those that could not start, with the reason."""

    failed: dict[str, str]


def is_done(folder: Path) -> bool:
    """Whether a run came to an end, good or bad."""
    return RunDir(folder).finished or (folder / DIVERGED).is_file()


def distinct(cells: Sequence[Cell]) -> dict[str, RunConfig]:
    """The runs behind some cells, each once."""
    return {cell.run: cell.config for cell in cells}


def work_through(runs: dict[str, RunConfig], out: Path, workers: int, report: Report) -> Outcome:
    """Bring every run under `out` to its end, after the warm-ups that they start from.

    Raises:
        Whatever a run raises that is not its own numbers' fault: a full disk, a bug.
    """
    waiting = {}
    for name, config in runs.items():
        if is_done(out / name):
            slim(out / name)  # it may have been killed just before
        else:
            waiting[name] = config
    if not waiting:
        return Outcome({})
    context = multiprocessing.get_context("spawn")  # forked children would inherit torch's thread pools
    events = context.SimpleQueue()  # its put returns when the event is on its way: none arrives after the job's result
    pool = ProcessPoolExecutor(min(workers, len(waiting)), context, _begin, (events,))
    try:
        warmups = {_start_key(config): config for config in waiting.values() if not _is_warm(config)}
        jobs = {key: pool.submit(_warm_up, config) for key, config in warmups.items()}
        follow(list(jobs.values()), events, report)
        cold = {key: reason for key, job in jobs.items() if (reason := job.result())}
        failed = {name: cold[_start_key(c)] for name, c in waiting.items() if _start_key(c) in cold}
        ready = {name: config for name, config in waiting.items() if name not in failed}
        follow([pool.submit(_finish, name, config, out / name) for name, config in ready.items()], events, report)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return Outcome(failed)


def follow(jobs: Sequence[Future[Any]], events: Any, report: Report) -> None:
    """Pass events on until every job is done. After a failure no other starts; those at work go on."""
    while True:
        done, running = wait(jobs, timeout=0.3)
        while not events.empty():
            report(*events.get())
        failed = [job for job in done if not job.cancelled() and job.exception()]
        if failed:
            for job in running:
                job.cancel()
        if not running:
            for job in failed:
                job.result()
            return


def _start_key(config: RunConfig) -> str:
    return warmup_key(config) if config.warmup is not None else ""


def _is_warm(config: RunConfig) -> bool:
    return config.warmup is None or (cache_dir() / f"warmup-{warmup_key(config)}").is_dir()


def _begin(events: Any) -> None:
    """A worker's first act: find its line home, and leave when home is gone."""
    global _events
    _events = events
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _warm_up(config: RunConfig) -> str:
    """Train a warm-up into the cache; returns why that failed, or nothing."""
    def tell(event: Any) -> None:
        if event["step"] % EVENT_STEPS == 0:
            _events.put((WARMUP, event["step"]))

    try:
        starting_policy(config, tell)
    except RuntimeError as error:
        return str(error)
    return ""


def _finish(name: str, config: RunConfig, folder: Path) -> None:
    """One run from where it stands to its end; what is kept of it are settings, metrics and summary."""

    def tell(event: Any) -> None:
        if event["kind"] == "iteration" and event["iteration"] < config.train.iterations:
            _events.put((name, event["iteration"]))

    try:
        if (folder / "config.yaml").exists():
            resume(folder, tell)
        else:
            train(config, folder, tell)
    except FloatingPointError as error:
        write_atomically(folder / DIVERGED, json.dumps({"error": str(error)}).encode())
    except KeyboardInterrupt:
        return  # the parent process was interrupted too, and says so
    slim(folder)
    _events.put((name, config.train.iterations))


def slim(folder: Path) -> None:
    """Remove what only an unfinished run needs, and the traced tokens: a study has hundreds of runs."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in ("trace.safetensors", "trace.json", ".lock"):
        (folder / name).unlink(missing_ok=True)
