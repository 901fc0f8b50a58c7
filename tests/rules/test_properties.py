"""Every registered property, on the package as it is."""

from __future__ import annotations

import os

import pytest

from tests.properties import PROPERTIES
from tests.twins import original


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name: str) -> None:
    PROPERTIES[name].run(original())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n, p in PROPERTIES.items() if p.strategies and n != "single_precision_suffices"]
)
def test_property_on_more_examples(name: str) -> None:
    """The same ones every time, so that a red run can be repeated; MINICPPO_NEW_EXAMPLES=1 draws others."""
    fixed = "MINICPPO_NEW_EXAMPLES" not in os.environ
    PROPERTIES[name].run(original(), examples=4 * PROPERTIES[name].examples, fixed=fixed)


def test_at_least_forty() -> None:
    assert len(PROPERTIES) >= 40
    assert sum(p.source == "refuted" for p in PROPERTIES.values()) >= 13
