"""Worker processes that tell the one that started them how far they are, and that end with it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from typing import Any

_events: Any = None  # a worker's line to the process that started it


def start_workers(count: int, runs_each: int | None = None) -> tuple[ProcessPoolExecutor, Any]:
    """A pool, and the queue of what its workers `tell`. runs_each: after so many jobs a fresh process takes over."""
    context = multiprocessing.get_context("spawn")  # forked children would inherit torch's thread pools
    events = context.SimpleQueue()  # its put returns when the event is on its way: none arrives after the job's result
    return ProcessPoolExecutor(count, context, _begin, (events,), max_tasks_per_child=runs_each), events


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
