"""The table of targets: what is missed says why, and a GPU's results get their column."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from minicppo.report import targets as module


def cells(text: str) -> dict[str, list[str]]:
    """The table's rows by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_what_is_missed_says_why() -> None:
    measured = all((module.RESULTS / f"{name}{module.ON_GPU}.json").is_file() for name in module.BENCH)
    for path, (_, _, met, why, asked, gpu) in list(cells(module.targets()).items())[2:]:
        assert met in ("yes", "no"), path
        assert bool(why) == (met == "no"), path
        if measured:
            assert bool(gpu) == bool(asked), path
            assert gpu != "not measured", path
        else:
            assert gpu in ("not measured", ""), path


def test_a_gpus_results_get_their_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in module.RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    for name in module.BENCH:
        measured = json.loads((tmp_path / f"{name}.json").read_text())
        measured["machine"]["device"] = "NVIDIA Test"
        if name == "mask":
            measured["rows"][0] |= {"ratio": 60.0, "copies": 2.9}
        (tmp_path / f"{name}{module.ON_GPU}.json").write_text(json.dumps(measured))
    found = cells(module.targets())
    assert found["mask, 512 x 2,048, beside the loop"][-1] == "60.0 x"
    assert found["mask, 512 x 2,048, beside a copy"][-1] == "3 copies"
    assert found["mask, 64 x 8,192, beside the loop"][-1].endswith(", missed")
    assert found["memory of the demo, its largest process"][-1] == ""
    assert "on NVIDIA Test" in module.targets()
