"""What starts at once imports no more than it needs."""

import os
import subprocess
import sys

import pytest

from minicppo import __main__ as entry

EXPLAIN = ["explain", "--mu", ".5,.4", "--pi", ".6,.48"]
CASES = [  # what runs, and what it must not import
    ("import minicppo.reference", ["torch", "scipy", "matplotlib"]),
    ("import minicppo.bounds", ["torch", "scipy.optimize", "scipy.special", "matplotlib"]),
    (["--help"], ["torch", "numpy", "matplotlib"]),
    pytest.param(["thresholds", "--horizon", "64"], ["torch", "matplotlib"], marks=pytest.mark.slow),
    pytest.param(EXPLAIN, ["transformers", "scipy", "matplotlib"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("runs", "spared"), CASES, ids=lambda value: str(value)[:48])
def test_only_what_is_needed_is_imported(runs, spared):
    if isinstance(runs, list):
        runs = f"import contextlib, minicppo.cli\nwith contextlib.suppress(SystemExit): minicppo.cli.main({runs})"
    code = f"{runs}\nimport sys\nprint('imported:', *sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    imported = set(output.rpartition("imported:")[2].split())
    assert any(name.startswith("minicppo") for name in imported)
    assert not imported & set(spared)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "heavy", "first", "other", "word"),
    [
        ("methods", "torch", ["methods", "--json"], EXPLAIN, "verdict"),  # which reads the same file
        ("thresholds", "scipy.optimize", ["thresholds"], ["thresholds"], "theorem1"),
    ],
)
def test_what_takes_long_is_kept(tmp_path, name, heavy, first, other, word):
    """Later calls import nothing heavy, and say the same; a file that is damaged is made anew."""

    def called(arguments):
        code = f"import sys, minicppo.cli\ntry: minicppo.cli.main({arguments})\n"
        code += f"finally: print({heavy!r} in sys.modules, file=sys.stderr)"
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "100"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout, done.stderr.split()[-1]

    made, again, kept = called(first), called(first), called(other)
    assert (made[1], again, kept[1]) == ("True", (made[0], "False"), "False")
    assert word in kept[0]
    (file,) = tmp_path.rglob(f"{name}-*.json")
    file.write_text("[")
    assert called(other) == (kept[0], "True")


def test_the_shell_completes_commands():
    """As bash asks, after `minicppo --install-completion`."""
    asked = {"_MINICPPO_COMPLETE": "complete_bash", "COMP_WORDS": "minicppo thr", "COMP_CWORD": "1"}
    code = "import minicppo.cli; minicppo.cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked)
    assert done.stdout.split() == ["thresholds"]


def test_ctrl_c_while_the_command_is_imported_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "minicppo.cli", raising=False)
    monkeypatch.setattr("builtins.__import__", interrupted)
    with pytest.raises(SystemExit, match="130"):
        entry.main()
    monkeypatch.undo()
    assert capsys.readouterr().err == "\nStopped before anything was begun.\n"
