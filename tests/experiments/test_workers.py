"""Worker processes: what they inherit, and what the process that started them does without."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from queue import SimpleQueue

import pytest

from experiments.workers import follow, start_workers, tell


@pytest.mark.slow
def test_workers_see_the_environment_of_the_day(monkeypatch):
    """Of the pool's start, that is: the server that forks them may have begun with another."""
    for day in ("monday", "tuesday"):
        monkeypatch.setenv("MINICPPO_TEST_DAY", day)
        pool, _ = start_workers(1, runs_each=1)
        with pool:
            first, second = pool.submit(os.getpid), pool.submit(os.getpid)
            assert pool.submit(os.getenv, "MINICPPO_TEST_DAY").result() == day
    assert os.getpid() != first.result() != second.result(), "every run may have a process of its own"


def tell_and_sleep() -> None:
    tell(os.getpid())
    time.sleep(60)


@pytest.mark.slow
def test_ctrl_c_ends_a_worker_before_its_next_job(tmp_path):
    """The next one is on its way to the worker already, where the pool cannot cancel it."""
    pool, events = start_workers(1)
    with pool:
        pool.submit(tell_and_sleep)
        queued = pool.submit((tmp_path / "begun").touch)
        os.kill(*events.get(), signal.SIGINT)
        with pytest.raises(BrokenProcessPool):
            queued.result()
    assert not list(tmp_path.iterdir())


def test_after_a_failure_what_runs_is_heard_out_and_nothing_starts():
    events = SimpleQueue()
    heard = []

    def fail():
        raise OSError("No space left on device")

    def work(name):
        time.sleep(0.5)
        events.put((name,))

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(fail), *(pool.submit(work, name) for name in ("first", "second", "third"))]
        with pytest.raises(OSError, match="No space left"):
            follow(jobs, events, heard.append)
        assert [job.cancelled() for job in jobs] == [False, False, False, True]
    assert sorted(heard) == ["first", "second"]


@pytest.mark.slow
def test_the_demo_s_display_does_without_the_trainer():
    """Its imports would be a third copy of 300 MB (experiments/benchmarks/README.md, Memory)."""
    heavy = ("transformers", "matplotlib", "scipy")
    code = f"import sys, experiments.demo; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert found.stdout.strip() == "[]"
