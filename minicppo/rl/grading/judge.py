"""math-verify behind a time limit that holds: a few processes that end themselves, used from any thread or process.

math-verify limits its own time by `signal.alarm`, which works in a main thread only and cannot stop a long step inside
C code. Here each pair goes to a process of its own kind, see `judge_worker`, which is replaced when it ends.
"""

import atexit
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from minicppo.text import install

WORKER = Path(__file__).with_name("judge_worker.py")
INSTALL = install("math")
LIMIT = 3.0  # seconds of computing a pair
PROCESSES = 4  # at most


class AnswerTimeout(Exception):
    """A pair took longer than the limit."""


class JudgeDied(Exception):
    """The process that judged a pair ended before its limit: out of memory, or a crash."""


def require_math_verify() -> None:
    """Raises ModuleNotFoundError, naming what to install, where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError(f"checking mathematical answers needs the package 'math-verify': {INSTALL}")


class _Worker:
    """One process. It starts while others work: only the first question waits until it is ready."""

    def __init__(self, limit: float):
        # -P: the folder of the script, with its modules named like common ones, stays off the import path
        command = [sys.executable, "-P", str(WORKER), str(limit)]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True)
        self.ready = False

    def ask(self, gold: str, answer: str) -> bool | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if not self.ready:
            if self.process.stdout.readline() != "ready\n":
                raise RuntimeError(f"math-verify cannot be imported by {sys.executable}: {INSTALL}")
            self.ready = True
        try:
            self.process.stdin.write(json.dumps([gold, answer]) + "\n")
            self.process.stdin.flush()
            verdict = self.process.stdout.readline()
        except BrokenPipeError:
            verdict = ""
        if verdict:
            return json.loads(verdict)
        status = self.process.wait()
        if -status in (signal.SIGPROF, signal.SIGALRM):
            raise AnswerTimeout
        raise JudgeDied(status)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close our ends of the pipes: in a forked child the process belongs to the parent."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@dataclass
class Judge:
    """At most `processes` workers, started as they are needed; `limit` is in seconds of computing a pair."""

    limit: float = LIMIT
    processes: int = PROCESSES
    _idle: list[_Worker] = field(default_factory=list)
    _all: list[_Worker] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _places: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = threading.Semaphore(self.processes)
        _judges.append(self)

    def __call__(self, gold: str, answer: str) -> bool | None:
        """Whether two LaTeX expressions are the same; None if math-verify cannot read one of them.

        Raises:
            AnswerTimeout: at the limit. JudgeDied: memory ran out, or the library crashed.
        """
        with self._places:
            with self._lock:
                worker = self._idle.pop() if self._idle else self._start()
            try:
                verdict = worker.ask(gold, answer)
            except BaseException:  # it has ended, or was interrupted in the middle of an exchange
                with self._lock:
                    self._all = [other for other in self._all if other is not worker]
                    self._idle.append(self._start())
                worker.close()
                raise
            with self._lock:
                self._idle.append(worker)
            return verdict

    def _start(self) -> _Worker:
        worker = _Worker(self.limit)
        self._all.append(worker)
        return worker

    def close(self) -> None:
        """End all processes; a later question starts new ones."""
        with self._lock:
            for worker in self._all:
                worker.close()
            self._all.clear()
            self._idle.clear()

    def _after_fork(self) -> None:
        """In a forked child: leave the parent's processes alone and start with none."""
        for worker in self._all:
            worker.forget()
        self._all, self._idle, self._lock = [], [], threading.Lock()
        self._places = threading.Semaphore(self.processes)


_judges: list[Judge] = []


@atexit.register
def _close_all() -> None:
    for judge in _judges:
        judge.close()


def _leave_to_parent() -> None:
    for judge in _judges:
        judge._after_fork()


os.register_at_fork(after_in_child=_leave_to_parent)
judge = Judge()
