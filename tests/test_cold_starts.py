"""What starts at once imports no more than it needs."""

import subprocess
import sys

import pytest

EXPLAIN = ["explain", "--mu", ".5,.4", "--pi", ".6,.48"]
CASES = [  # what runs, and what it must not import
    ("import minicppo.reference", ["torch", "scipy", "matplotlib"]),
    ("import minicppo.bounds", ["torch", "scipy.optimize", "scipy.special", "matplotlib"]),
    (["--help"], ["torch", "numpy", "matplotlib"]),
    pytest.param(["thresholds", "--horizon", "64"], ["torch", "matplotlib"], marks=pytest.mark.slow),
    pytest.param(["methods"], ["transformers", "scipy", "matplotlib"], marks=pytest.mark.slow),
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
