"""The registry, its documents and its programme agree."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from theory import figures, looseness, verify
from theory.registry import STATEMENTS, Statement
from theory.study import Study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(repeats=2)


CASES = [pytest.param(s, marks=pytest.mark.slow if s.id == "certificate" else (), id=s.id) for s in STATEMENTS]


@pytest.mark.parametrize("statement", CASES)
def test_verdict_is_reproduced(statement: Statement, study: Study) -> None:
    evidence = statement.check(study)
    assert evidence.agrees, evidence.note
    assert evidence.instances > 0
    assert evidence.note
    if re.search(r"T=8192: .*\d{3}", evidence.note):  # `minicppo thresholds` and the README take xi = 1/2
        assert "xi = 1" in evidence.note


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.id)
def test_function_test_and_proof_exist(statement: Statement) -> None:
    if statement.function != "-":
        module, *names = statement.function.split(".")
        target = importlib.import_module(f"minicppo.bounds.{module}")
        for name in names:
            target = getattr(target, name)
    assert (ROOT / "tests" / "bounds" / statement.test).is_file()
    page, anchor = statement.page.split("#")
    assert anchor in anchors(ROOT / "theory" / page)


def anchors(page: Path) -> set[str]:
    """Anchors a code host gives the headings: lower case, punctuation dropped, spaces to dashes."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_ids_are_unique() -> None:
    assert len({s.id for s in STATEMENTS}) == len(STATEMENTS)


def test_index_is_the_registry() -> None:
    """Regenerate with `python -m theory.verify --write-index`."""
    text = verify.README.read_text(encoding="utf-8")
    assert verify.with_index(text) == text


def test_lost_markers_are_named() -> None:
    with pytest.raises(ValueError, match="lost its markers"):
        verify.with_index("no table here")


def test_links_between_pages_resolve() -> None:
    for page in sorted((ROOT / "theory").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                assert anchor in anchors(target), f"{page.name}: {link}"


def test_programme_writes_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verify, "STATEMENTS", [s for s in STATEMENTS if s.id in ("prop4", "c3-soft")])
    monkeypatch.setattr(verify, "Study", lambda: Study(repeats=1))
    target = tmp_path / "rows.json"
    assert verify.main(["--json", str(target)]) == 0
    rows = json.loads(target.read_text())
    assert [(row["id"], row["agrees"]) for row in rows] == [("prop4", True), ("c3-soft", True)]
    assert "180 enumerated pairs" in " ".join(capsys.readouterr().out.split())


def test_looseness_table_covers_every_bound(study: Study) -> None:
    found = looseness.ratios(study)
    assert set(looseness.TITLES) <= set(found)
    assert max(largest for families in found.values() for _, largest in families.values()) <= 1 + 1e-6
    assert looseness.table(study).row_count == len(looseness.TITLES)


def test_figure_is_drawn(tmp_path: Path) -> None:
    assert figures.draw_shared_parameter(tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
