"""What starts at once imports no more than it needs."""

import subprocess
import sys
from unittest import mock

import pytest

from minicppo import __main__ as entry

EXPLAIN = ["explain", "--mu", ".5,.4", "--pi", ".6,.48"]


def called(runs: str | list[str]) -> tuple[str, set[str]]:
    """What a program, or a command line, prints in a process of its own, and the modules that it imports."""
    if isinstance(runs, list):
        runs = f"import contextlib, minicppo.cli\nwith contextlib.suppress(SystemExit): minicppo.cli.main({runs})"
    code = f"{runs}\nimport sys\nprint('imported:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed, _, imported = done.stdout.rpartition("imported:")
    return printed, set(imported.split())


@pytest.mark.parametrize(
    ("runs", "spared"),  # what each file of a floor may import: `tests/test_floors.py`
    [
        ("import minicppo.bounds", {"torch", "scipy.optimize", "scipy.special", "matplotlib"}),
        (["--help"], {"torch", "numpy", "matplotlib"}),
    ],
)
def test_only_what_is_needed_is_imported(runs, spared):
    _, imported = called(runs)
    assert any(name.startswith("minicppo") for name in imported)
    assert not imported & spared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heavy", "first", "other", "word", "spared"),
    [
        ("torch", ["methods", "--json"], EXPLAIN, "verdict", {"transformers", "scipy"}),  # both read the same file
        ("scipy.optimize", ["thresholds"], ["thresholds"], "theorem1", {"torch"}),
    ],
)
def test_what_takes_long_is_kept(tmp_path, monkeypatch, heavy, first, other, word, spared):
    """Later calls import nothing heavy, and say the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (made, with_it), (again, without), (others, without_either) = map(called, (first, first, other))
    assert (made, heavy in with_it, heavy in without, heavy in without_either) == (again, True, False, False)
    assert not (with_it | without_either) & {*spared, "matplotlib"}
    assert word in others


def test_ctrl_c_while_the_command_is_imported_is_one_line(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "minicppo.cli", raising=False)
    monkeypatch.setattr("builtins.__import__", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit, match="130"):
        entry.main()
    monkeypatch.undo()
    assert capsys.readouterr().err == "\nStopped before anything was begun.\n"
