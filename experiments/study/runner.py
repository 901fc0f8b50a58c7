"""Working through a grid: a pool of processes, each run resumable, nothing done twice.

A killed study loses nothing that was finished, and goes on from the checkpoints of what was not. Workers end with the
process that started them, so that a restarted study finds its runs free.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.workers import follow, start_workers, tell
from minicppo.files import cache_dir, write_atomically
from minicppo.rl.config import RunConfig
from minicppo.rl.run_dir import RunDir
from minicppo.rl.trainer import starting_policy, train_or_resume
from minicppo.rl.warmup import warmup_key

DIVERGED = "diverged.json"  # why a run ended in numbers that are not finite; it would again
WARMUP = "warm-up"
EVENT_STEPS = 25  # of a warm-up
Report = Callable[..., None]  # of (run, iterations done), or (WARMUP, steps done, greedy accuracy)


def is_done(folder: Path) -> bool:
    """Whether a run came to an end, good or bad."""
    return RunDir(folder).finished or (folder / DIVERGED).is_file()


def work_through(runs: dict[str, RunConfig], out: Path, workers: int, report: Report) -> dict[str, str]:
    """Bring every run under `out` to its end, after the warm-ups that they start from.

    Returns the runs that could not start, with the reason.

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
        return {}
    pool, events = start_workers(min(workers, len(waiting)))
    try:
        warmups = {key: config for config in waiting.values() if (key := _start_key(config))}
        cold = {key: config for key, config in warmups.items() if not (cache_dir() / f"warmup-{key}").is_dir()}
        jobs = {key: pool.submit(_warm_up, config) for key, config in cold.items()}
        follow(list(jobs.values()), events, report)
        reasons = {key: reason for key, job in jobs.items() if (reason := job.result())}
        failed = {name: reasons[_start_key(c)] for name, c in waiting.items() if _start_key(c) in reasons}
        ready = {name: config for name, config in waiting.items() if name not in failed}
        follow([pool.submit(_finish, name, config, out / name) for name, config in ready.items()], events, report)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _start_key(config: RunConfig) -> str:
    return warmup_key(config) if config.warmup is not None else ""


def _warm_up(config: RunConfig) -> str:
    """Train a warm-up into the cache; returns why that failed, or nothing."""

    def heard(event: Any) -> None:
        if event["step"] % EVENT_STEPS == 0:
            tell(WARMUP, event["step"], event["accuracy"])

    try:
        starting_policy(config, heard)
    except RuntimeError as error:
        return str(error)
    return ""


def _finish(name: str, config: RunConfig, folder: Path) -> None:
    """One run from where it stands to its end; what is kept of it are settings, metrics and summary."""

    def heard(event: Any) -> None:
        if event["kind"] == "iteration" and event["iteration"] < config.train.iterations:
            tell(name, event["iteration"])

    try:
        train_or_resume(config, folder, heard)
    except FloatingPointError as error:
        write_atomically(folder / DIVERGED, json.dumps({"error": str(error)}).encode())
    slim(folder)
    tell(name, config.train.iterations)


def slim(folder: Path) -> None:
    """Remove what only an unfinished run needs, and the traced tokens: a study has hundreds of runs."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in ("trace.safetensors", "trace.json", ".lock"):
        (folder / name).unlink(missing_ok=True)
