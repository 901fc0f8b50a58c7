"""The command, in an empty working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicppo.cli import main
from tests.command_line import Command, command


@pytest.fixture
def minicppo(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line in an empty working directory, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["minicppo"])
    return command(main, capsys)
