"""Checkers behind limits that hold: a few warm processes that end themselves, used from any thread or process.

What a checker reads was written by a policy that searches for whatever is paid, so each question goes to a `worker`:
bounded in computing time and memory, and replaced when it ends. Questions go over as Python literals and answers come
back as JSON: nothing that the process says is ever evaluated here.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

HERE = Path(__file__).parent
MATH, REASONING_GYM = HERE / "check_math.py", HERE / "check_reasoning_gym.py"
LIMIT = 3.0  # seconds of computing a question
PROCESSES = 4  # at most
LONGEST_REPLY = 4096  # characters
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")  # no one's tokens
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Unchecked(Exception):
    """A checker came to no verdict: at the limit ("timeout"), dead ("died"), or by an exception, whose name it is."""


faults: Counter[str] = Counter()  # by name, of this process


def take_faults() -> dict[str, int]:
    """What `faults` has counted since it was last taken, as fields of a log: none where all went well."""
    taken = {f"faults/{name}": count for name, count in sorted(faults.items())}
    faults.clear()
    return taken


class _Worker:
    """One process. It loads its first checker while others work: only the first question waits for it."""

    def __init__(self, limit: float, checker: Path):
        # -P: the folder of the script stays off the import path; -B: no file is written
        command = [sys.executable, "-P", "-B", str(HERE / "worker.py"), str(limit), str(checker)]
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | ONE_THREAD
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True, env=environment)
        assert self.process.stdin and self.process.stdout  # noqa: PT018
        self.questions, self.replies = self.process.stdin, self.process.stdout

    def ask(self, checker: Path, arguments: tuple[Any, ...]) -> Any:
        try:
            self.questions.write(ascii((str(checker), arguments)) + "\n")
            self.questions.flush()
            return json.loads(self.replies.readline(LONGEST_REPLY))
        except (BrokenPipeError, ValueError):  # it has ended, or says what no worker of ours does
            self.process.kill()
        status = self.process.wait()
        raise Unchecked("timeout" if -status in (signal.SIGPROF, signal.SIGALRM) else "died")

    def close(self, kill: bool = True) -> None:
        if kill:
            self.process.kill()
            self.process.wait()
        for stream in (self.questions, self.replies):
            with contextlib.suppress(OSError):  # what it did not read any more
                stream.close()


class ConfinedPool:
    """At most `processes` workers, started as they are needed; `limit` is in seconds of computing a question."""

    def __init__(self, limit: float = LIMIT, processes: int = PROCESSES):
        self.limit, self.processes = limit, processes
        self._all: set[_Worker] = set()
        self.close()
        _pools.add(self)

    def __call__(self, checker: Path, *arguments: Any) -> Any:
        """What a checker's function says to Python literals. Raises Unchecked; ModuleNotFoundError: it cannot load."""
        with self._places:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = self._start(checker)
            try:
                reply = worker.ask(checker, arguments)
            except BaseException:  # it has ended, or was interrupted in the middle of an exchange
                self._all.discard(worker)
                worker.close()
                self._idle.append(self._start(checker))
                raise
            self._idle.append(worker)
        if "missing" in reply:
            raise ModuleNotFoundError(f"a checker cannot be loaded by {sys.executable}: {reply['missing']}")
        if "error" in reply:
            raise Unchecked(reply["error"])
        return reply["value"]

    def _start(self, checker: Path) -> _Worker:
        worker = _Worker(self.limit, checker)
        self._all.add(worker)
        return worker

    def close(self, kill: bool = True) -> None:
        """End all processes (or leave them to the parent, in a forked child); a later question starts new ones."""
        for worker in list(self._all):
            worker.close(kill)
        self._all.clear()
        self._idle: list[_Worker] = []
        self._places = threading.Semaphore(self.processes)


_pools: WeakSet[ConfinedPool] = WeakSet()


@atexit.register
def _close_all(kill: bool = True) -> None:
    for each in _pools:
        each.close(kill)


os.register_at_fork(after_in_child=partial(_close_all, kill=False))
confined = ConfinedPool()
