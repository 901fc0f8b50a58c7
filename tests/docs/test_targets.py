"""The table of targets: what is missed says why, and a GPU's results get their column."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from docs.tools import targets as module


def tables(text: str) -> list[dict[str, list[str]]]:
    """Each table's rows by their first cell, its two heading lines left out."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append({row[0]: row[1:] for row in rows[2:]})
    return found


def test_what_is_missed_says_why() -> None:
    cpu, gpu = tables(module.targets())
    assert cpu.keys() > {path for path in gpu if path.startswith("mask")}
    for path, (asked, found, met, why) in [*cpu.items(), *gpu.items()]:
        assert asked, path
        assert found, path
        assert met in ("yes", "no"), path
        assert bool(why) == (met == "no"), path
    for start in ("sampling, equal", "sampling, spread", "scoring", "mask, 512", "mask, 64", "rollout"):
        assert all(any(path.startswith(start) for path in table) for table in (cpu, gpu)), start
    assert any(path.startswith("memory") for path in cpu)


def test_a_gpus_results_get_their_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in module.RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    path = tmp_path / f"mask{module.ON_GPU}.json"
    measured = json.loads(path.read_text())
    measured["rows"][0] |= {"ratio": 60.0, "copies": 2.9}
    measured["rows"][1] |= {"ratio": 40.0, "copies": 3.1}
    path.write_text(json.dumps(measured))
    _, found = tables(module.targets())
    assert found["mask, 512 x 2,048, beside the loop"] == ["50 x", "60.0 x", "yes", ""]
    assert found["mask, 512 x 2,048, beside a copy"][1:] == ["2.9 copies", "yes", ""]
    assert found["mask, 64 x 8,192, beside the loop"][2] == "no"
    assert found["mask, 64 x 8,192, beside a copy"][2] == "no"
    path.unlink()
    assert len(tables(module.targets())) == 1
    assert "On a GPU (`make bench-gpu`): not measured." in module.targets()
