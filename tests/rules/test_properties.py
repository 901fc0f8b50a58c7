"""Every registered property, on the package as it is."""

from __future__ import annotations

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
def test_property_on_new_examples(name: str) -> None:
    PROPERTIES[name].run(original(), examples=4 * PROPERTIES[name].examples, fixed=False)


def test_at_least_forty() -> None:
    assert len(PROPERTIES) >= 40
    assert sum(p.source == "refuted" for p in PROPERTIES.values()) >= 13
