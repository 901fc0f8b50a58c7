"""The command, in an empty working directory."""

import pytest

from minicppo.cli import main
from tests.command_line import command


@pytest.fixture
def minicppo(capsys, tmp_path, tmp_path_factory, monkeypatch):
    """Run a command line in an empty working directory, in this process; warm-ups are shared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr("sys.argv", ["minicppo"])
    return command(main, capsys)
