"""Every mutant is noticed, by every property that claims it; every property claims one."""

from __future__ import annotations

import sys

import pytest

from tests.mutants.plant import planted
from tests.mutants.planted import MUTANTS
from tests.mutants.run import notices, verdicts, without_a_mutant
from tests.properties import PROPERTIES
from tests.twins import original


def test_every_property_has_a_mutant() -> None:
    assert not without_a_mutant()


def test_there_are_enough_and_each_applies() -> None:
    assert len(MUTANTS) >= 40
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert mutant.source()
        assert set(mutant.killers) <= set(PROPERTIES)


def test_planting_leaves_the_original_alone() -> None:
    original()  # imports both packages
    before = {name: module for name, module in sys.modules.items() if name.startswith("minicppo")}
    subject = planted(MUTANTS[0])
    assert subject.rules is not original().rules
    assert {name: module for name, module in sys.modules.items() if name.startswith("minicppo")} == before
    assert original().rules.METHODS is before["minicppo.rules"].METHODS


def test_the_original_is_not_noticed() -> None:
    assert not notices("late_tokens_may_exceed_dppo", original())


@pytest.mark.slow
def test_every_mutant_is_killed() -> None:
    missed = {v.mutant.name: v.passed for v in verdicts() if v.passed or not v.killed}
    assert not missed
