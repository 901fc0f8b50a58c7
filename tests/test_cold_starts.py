"""What starts at once imports no more than it needs."""

import json
import os
import subprocess
import sys

import pytest

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


def test_methods_are_kept_by_the_sources_of_the_rules(tmp_path):
    """The second call imports no PyTorch, and says the same; a file that is damaged is made anew."""
    code = "import sys, minicppo.cli\ntry: minicppo.cli.main(['methods', '--json'])\n"
    code += "finally: print('torch' in sys.modules, file=sys.stderr)"

    def called():
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout, done.stderr.strip()

    (first, torch_then), (second, torch_now) = called(), called()
    (kept,) = tmp_path.rglob("methods-*.json")
    kept.write_text("[")
    third, torch_again = called()
    assert first == second == third
    assert {"cppo", "grpo"} <= {method["name"] for method in json.loads(first)}
    assert (torch_then, torch_now, torch_again) == ("True", "False", "True")
