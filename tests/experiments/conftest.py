"""The command of the experiments, in an empty working directory."""

import pytest

from experiments.__main__ import main
from tests.command_line import command


@pytest.fixture
def experiments(capsys, tmp_path, monkeypatch):
    """Run a command line in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    return command(main, capsys)
