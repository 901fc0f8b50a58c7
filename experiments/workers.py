"""Worker processes that tell the one that started them how far they are, and that end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from typing import Any

import torch

_events: Any = None  # a worker's line to the process that started it


def start_workers(count: int, runs_each: int | None = None) -> tuple[ProcessPoolExecutor, Any]:
    """A pool, and the queue of what its workers `tell`. runs_each: after so many jobs a fresh process takes over."""
    # Forked by a server that has only imported: workers share those pages, and start at once. Never forked from here,
    # where torch has threads; nor where CUDA may have been touched, nor on macOS, whose libraries do not survive it.
    forked = sys.platform == "linux" and not torch.cuda.is_available()
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload(["minicppo.rl.trainer"])
        # an interruption while the server imports leaves no worker half begun
        first = context.Process(target=int)  # type: ignore[attr-defined]
        first.start()
        first.join()
    events = context.SimpleQueue()  # its put returns when the event is on its way: none arrives after the job's result
    begin = (events, dict(os.environ))
    return ProcessPoolExecutor(count, context, _begin, begin, max_tasks_per_child=runs_each), events


def tell(*event: Any) -> None:
    """Send an event home, from a worker."""
    _events.put(event)


def follow(jobs: Sequence[Future[Any]], events: Any, report: Callable[..., None]) -> None:
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


def _begin(events: Any, environment: Mapping[str, str]) -> None:
    """A worker's first act: find its line home, take over the settings there, and leave when home is gone."""
    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker, not only its job: the next would start
    os.environ.update(environment)  # the server began with those of an earlier day
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
