"""The Markdown pages keep up with the code: generated blocks, and the tests and keys that REPRODUCTION.md names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.tools.readme import PAGES, filled
from experiments.benchmarks.readings import PAIRS, RESULT
from minicppo.rules import get_method
from tests.rules.test_mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
LOG = (ROOT / "REPRODUCTION.md").read_text(encoding="utf-8")
TESTS = {name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}


@pytest.mark.parametrize("page", PAGES)
def test_generated_blocks_are_current(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert filled(text) == text, f"{page} lags behind its sources: run `make docs`"


def test_every_test_the_log_names_exists() -> None:
    named = set(re.findall(r"`([a-z]\w*_\w+)`", LOG)) - {"w_min", "response_mask", "max_new_tokens"}
    assert len(named) > 30
    assert named <= TESTS


def test_every_effect_the_log_names_was_measured() -> None:
    rows = set(json.loads(RESULT.read_text())["rows"])
    lines = LOG.split("## CPPO")[1].split("## What each reading changes")[0].splitlines()
    cells = [line.rsplit("|", 2)[1] for line in lines if line.startswith("|")]
    keys = {key for cell in cells for key in re.findall(r"`([\w-]+)`", cell)}
    assert keys <= rows == set(PAIRS)
    assert len(keys) >= 18


def test_every_pair_of_readings_is_runnable() -> None:
    for pair in PAIRS.values():
        for reading in pair:
            get_method(reading.method, **reading.params)


def test_the_mutant_the_log_names_is_planted() -> None:
    assert "inclusive prefix sum" in MUTANTS
