"""The command, in an empty working directory."""

import pytest

from minicppo.cli import main
from tests.command_line import TINY, command


@pytest.fixture
def minicppo(capsys, tmp_path, tmp_path_factory, monkeypatch):
    """Run a command line in an empty working directory, in this process; warm-ups are shared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr("sys.argv", ["minicppo"])
    return command(main, capsys)


TRAINED = ["train", "learn", "method=dppo", "method.params.delta=0.2", *TINY, "--run-dir"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished run, two iterations, which no test changes."""
    folder = str(tmp_path_factory.mktemp("trained") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINICPPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        with pytest.raises(SystemExit, match=r"^0$"):
            main([*TRAINED, folder])
    return folder
