"""Put every mutant before the properties that must notice it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.mutants.plant import Mutant, planted
from tests.mutants.planted import MUTANTS
from tests.properties import PROPERTIES
from tests.twins import Subject

EXAMPLES = 400


class Verdict(NamedTuple):
    mutant: Mutant
    failed: list[str]  # properties that noticed
    passed: list[str]  # killers that did not

    @property
    def killed(self) -> bool:
        return bool(self.failed)


def notices(name: str, subject: Subject) -> bool:
    """Whether the property fails on the subject; any error is a failure."""
    try:
        PROPERTIES[name].run(subject, examples=max(EXAMPLES, PROPERTIES[name].examples), shrink=False)
    except Exception:
        return True
    return False


def verdicts() -> Iterator[Verdict]:
    """One mutant after the other."""
    for mutant in MUTANTS:
        subject = planted(mutant)
        found = {name: notices(name, subject) for name in mutant.killers}
        yield Verdict(mutant, [n for n, x in found.items() if x], [n for n, x in found.items() if not x])


def without_a_mutant() -> set[str]:
    """Properties that no mutant claims to be noticed by."""
    return set(PROPERTIES) - {name for mutant in MUTANTS for name in mutant.killers}
