"""Judges pairs of LaTeX answers, as a process of its own: a script, so that nothing but math-verify is imported.

Reads `[gold, answer]` a line and writes `true`, `false` or `null` (one of them cannot be read). It sets itself timers
without a handler: at the limit the kernel ends the process, whatever library code it is in, and even if the process
that asked is gone. The limit is on computing time, so that verdicts do not depend on what else the machine does.
"""

import json
import os
import resource
import signal
import sys

MEMORY = 4 * 2**30  # bytes of address space
PLACES = 12  # in which a decimal must agree: math-verify's own 6 take 0.0000001 for pi / 10^7
PATIENCE = 3  # seconds on the clock for a second of computing


def set_timers(limit: float) -> None:
    """End this process after `limit` seconds of computing, or some times that on the clock; 0 cancels."""
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * limit)


def main() -> None:
    """Answer until the input ends."""
    limit = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    for timer in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(timer, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no verdict

    from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify

    # units=False: it would take the variable of 2t for a unit
    spelling = LatexNormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    wanted = [LatexExtractionConfig(normalization_config=spelling, boxed_match_priority=-1)]

    def read(latex: str) -> list[object]:
        return parse(f"${latex}$", wanted, "no_fallback", parsing_timeout=None)

    def judge(gold: str, answer: str) -> bool | None:
        try:
            expected, given = read(gold), read(answer)
            if not expected or not given:
                return None
            return bool(verify(expected, given, PLACES, allow_set_relation_comp=True, timeout_seconds=None))
        except Exception:  # of any library below, about a text that anyone may have written
            return None

    judge("x+1", "1+x")  # the first pair takes long: tables are loaded
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        set_timers(limit)
        verdict = judge(*json.loads(line))
        set_timers(0)
        print(json.dumps(verdict), file=answers, flush=True)


if __name__ == "__main__":
    main()
