"""A confined process that runs checkers: a script, so that nothing but what a checker needs is imported.

It reads a Python literal a line, `(checker, arguments)`, and writes a line of JSON: `{"value": ...}`, `{"error": NAME}`
for an exception, or `{"missing": ...}` where the checker, a file whose `load()` returns the function, cannot be loaded.

It limits itself by timers without a handler: the kernel ends it, whatever library code it is in and even if the process
that asked is gone. They count computing time, so that verdicts do not depend on what else the machine does.
"""

import ast
import contextlib
import json
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MEMORY = 4 * 2**30  # bytes of address space
PATIENCE = 3  # seconds on the clock for a second of computing


def set_timers(limit: float) -> None:
    """The process ends after `limit` seconds of computing, or some times that on the clock; 0 cancels."""
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * limit)


@lru_cache
def loaded(path: str) -> Callable[..., Any]:
    return runpy.run_path(path)["load"]()


def reply(line: str, limit: float) -> dict[str, Any]:
    try:
        path, arguments = ast.literal_eval(line)
        check = loaded(path)
        set_timers(limit)
        return {"value": check(*arguments)}
    except ImportError as error:
        return {"missing": str(error)}
    except Exception as error:  # of any library below, about a text that anyone may have written
        return {"error": type(error).__name__}
    finally:
        set_timers(0)


def main(limit: str, first: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    for timer in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(timer, signal.SIG_DFL)
    for name, most in (("AS", MEMORY), ("FSIZE", 0), ("NPROC", 0), ("CORE", 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no verdict
    with contextlib.suppress(Exception):  # the first question is told
        loaded(first)  # while the process that asks does something else
    for line in sys.stdin:
        print(json.dumps(reply(line, float(limit))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
