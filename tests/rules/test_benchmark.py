"""The mask's benchmark runs, and its candidates agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import mask


def test_small_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "mask.json"
    monkeypatch.setattr("sys.argv", ["mask", "--small", "--threads", "1", "--repeats", "1", "--json", str(result)])
    mask.main()
    assert "| 8 x 64 |" in capsys.readouterr().out
    found = json.loads(result.read_text())
    assert [row["rows"] for row in found["rows"]] == [8, 4]
    assert all(row["loop_ms"] > 0 and row["batched_ms"] > 0 and row["copies"] > 0 for row in found["rows"])
    assert [row["width"] for row in found["growth"]] == [32, 64]
