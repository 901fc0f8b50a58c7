"""`python -m tests.mutants`: plant every mutant, print who noticed, and the kill rate."""

from __future__ import annotations

import argparse
import sys
import time

from tests.mutants.planted import MUTANTS
from tests.mutants.run import verdicts, without_a_mutant
from tests.properties import PROPERTIES


def main() -> int:
    start, killed, silent = time.perf_counter(), 0, 0
    for v in verdicts():
        killed += v.killed
        silent += len(v.passed)
        noticed = ", ".join(v.failed) + (f"; NOT by {', '.join(v.passed)}" if v.passed else "")
        print(f"{'killed  ' if v.killed else 'SURVIVED'} {v.mutant.file:28s} {v.mutant.name}: {noticed}", flush=True)
    missing = without_a_mutant()
    print(f"\n{killed} of {len(MUTANTS)} mutants killed: kill rate {killed / len(MUTANTS):.0%}")
    print(f"{len(PROPERTIES) - len(missing)} of {len(PROPERTIES)} properties have a mutant, {silent} missed theirs")
    if missing:
        print("without one:", ", ".join(sorted(missing)))
    print(f"{time.perf_counter() - start:.0f} s")
    return int(killed < len(MUTANTS) or silent > 0 or bool(missing))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
