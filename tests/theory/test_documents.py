"""The documents are those of the registry, and the programmes of theory/ print them."""

import json
import re
from pathlib import Path

import pytest

from theory import figures, looseness, verify
from theory.registry import STATEMENTS
from theory.study import Study

FOLDER = Path(__file__).resolve().parents[2] / "theory"


def anchors(page: Path) -> set[str]:
    """Anchors a code host gives the headings: lower case, punctuation dropped, spaces to dashes."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.id)
def test_the_proof_exists(statement):
    page, anchor = statement.page.split("#")
    assert anchor in anchors(FOLDER / page)


def test_ids_are_unique():
    assert len({s.id for s in STATEMENTS}) == len(STATEMENTS)


def test_index_is_the_registry():
    """Regenerate with `python -m theory.verify --write-index`."""
    text = verify.README.read_text(encoding="utf-8")
    assert verify.with_index(text) == text


def test_lost_markers_are_named():
    with pytest.raises(ValueError, match="lost its markers"):
        verify.with_index("no table here")


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_links_and_names_resolve(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for package, module, name in re.findall(r"`(?:(minicppo\.bounds|theory)\.)(\w+)(?:\.(\w+))?`", text):
        source = FOLDER.parent / package.replace(".", "/") / f"{module}.py"
        assert source.exists(), f"{package}.{module}"
        assert not name or re.search(rf"^(def|class) {name}\b", source.read_text(encoding="utf-8"), re.M), name


def test_programme_writes_its_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verify, "STATEMENTS", [s for s in STATEMENTS if s.id in ("prop4", "c3-soft")])
    monkeypatch.setattr(verify, "Study", lambda: Study(repeats=1))
    target = tmp_path / "rows.json"
    assert verify.main(["--json", str(target)]) == 0
    rows = json.loads(target.read_text())
    assert [(row["id"], row["agrees"]) for row in rows] == [("prop4", True), ("c3-soft", True)]
    assert "180 enumerated pairs" in " ".join(capsys.readouterr().out.split())


def test_looseness_table_covers_every_bound():
    study = Study(repeats=1)
    found = looseness.ratios(study)
    assert set(looseness.TITLES) <= set(found)
    assert max(largest for families in found.values() for _, largest in families.values()) <= 1 + 1e-6
    assert looseness.table(study).row_count == len(looseness.TITLES)


@pytest.mark.slow
def test_figure_is_drawn(tmp_path):
    assert figures.draw_shared_parameter(tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
