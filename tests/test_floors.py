"""The floors: a file imports only from floors below its own, and no files import each other in a circle.

Read from the source, at any depth: imports inside functions and under TYPE_CHECKING count. Nothing is imported.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = ("minicppo", "experiments", "docs", "theory", "notebooks")

# What each floor may import of ours besides itself, from the lowest up. A package that is missing here fails.
BASE = {"text", "files", "plugins", "verdicts"}  # single files, below every floor
RULES = {"kernels", "rules"}
RL = {"bounds", "rl", *RULES}
WHEEL = {"reference", "engines", "inspect", "plots", "cli", "face", *RL}
FLOORS: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "reference": set(),
    "bounds": set(),
    "kernels": set(),
    "rules": RULES,
    "rl": RL,
    "inspect": RL,
    "engines": {"inspect", *RL},
    "plots": RL,
    "cli": WHEEL,
    "face": {"rules", "cli"},  # minicppo/__init__.py and __main__.py
    "theory": {*WHEEL},
    "experiments": {*WHEEL, "theory"},
    "docs": {*WHEEL, "theory", "experiments", "notebooks"},  # the site executes them
    "notebooks": {*WHEEL, "theory", "experiments"},
}
# The lowest floors also promise what they do without.
THIRD_PARTY: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "reference": {"numpy"},
    "bounds": {"numpy", "scipy"},
    "kernels": {"torch", "triton"},
    "rules": {"torch", "numpy", "jaxtyping"},
}
STANDARD = set(sys.stdlib_module_names)


@functools.cache
def names(source: str, module: str) -> list[str]:
    """Absolute names of all that `source` imports; `module` is its own name, of a package with __init__ at its end."""
    package, found = module.split(".")[:-1], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{stem}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found += [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def file_of(name: str, modules: set[str]) -> str | None:
    """The module that an imported name is, or is in: `a.b.C` is in a/b.py, or in a/b/__init__.py."""
    for stem in (name, name.rpartition(".")[0]):
        for module in (stem, f"{stem}.__init__"):
            if module in modules:
                return module
    return None


def floor_of(module: str) -> str:
    """minicppo's packages and single files are floors of their own; of the other trees each is one."""
    tree, *rest = module.split(".")
    if tree != "minicppo":
        return tree
    return "face" if rest[0] in ("__init__", "__main__") else rest[0]


def findings(sources: dict[str, str]) -> list[str]:
    """What is wrong with the imports of these modules: those that point up or sideways, and the first circle."""
    modules, found, graph = set(sources), [], {}
    for module, source in sources.items():
        floor = floor_of(module)
        graph[module] = set()
        for name in names(source, module):
            target, top = file_of(name, modules), name.split(".")[0]
            if target is not None:
                graph[module].add(target)
                if floor_of(target) not in {floor, *BASE, *FLOORS[floor]}:
                    found.append(f"{module} imports {name}: '{floor}' may not stand on '{floor_of(target)}'")
            elif top in {*TREES, "tests"}:
                found.append(f"{module} imports {name}, which is not there or stands above it")
            elif floor in THIRD_PARTY and top not in STANDARD | THIRD_PARTY[floor]:
                found.append(f"{module} imports {top}, which '{floor}' does without")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("a circle: " + " <- ".join(error.args[1]))
    return found


SOURCES = {
    module_of(path): path.read_text(encoding="utf-8") for tree in TREES for path in sorted((ROOT / tree).rglob("*.py"))
}


def test_every_file_has_a_floor():
    assert {floor_of(module) for module in SOURCES} <= set(FLOORS)


def test_imports_point_down_and_go_in_no_circle():
    assert not findings(SOURCES), "\n".join(findings(SOURCES))


def test_twins_share_nothing():
    assert "reference" not in FLOORS["rules"]
    assert FLOORS["reference"] == set()


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("minicppo.reference.planted", "from minicppo.rules import mask"),
        ("minicppo.reference.planted", "import torch"),
        ("minicppo.rules.planted", "def f():\n    from minicppo.reference import loss"),
        ("minicppo.rules.planted", "from ..rl import trainer"),
        ("minicppo.rules.planted", "from minicppo import rl"),
        ("minicppo.rules.planted", "from minicppo import cppo_mask"),
        ("minicppo.bounds.planted", "import torch.nn"),
        ("minicppo.rl.planted", "import minicppo.plots.style as style"),
        ("minicppo.plots.planted", "if True:\n    from .. import cli"),
        ("minicppo.cli.planted", "from experiments.demo import run_demo"),
        ("minicppo.cli.planted", "import importlib\nimportlib.import_module('theory.tabular')"),
        ("minicppo.cli.planted", "from tests.fake_runs import write_run"),
        ("minicppo.text", "from minicppo.files import cache_dir\nimport yaml"),
    ],
)
def test_a_planted_import_is_found(module, planted):
    assert findings({**SOURCES, module: planted})  # and there is nothing else to find: see above


@pytest.mark.parametrize(
    "back",
    [
        "from minicppo.plots.b import B",
        "def f():\n    from . import b",
        "if TYPE_CHECKING:\n    import minicppo.plots.b",
    ],
)
def test_a_planted_circle_is_found(back):
    planted = {"minicppo.plots.a": back, "minicppo.plots.b": "from minicppo.plots.a import A"}
    assert [text for text in findings(planted) if text.startswith("a circle: ")]
    assert not findings({**planted, "minicppo.plots.a": "import json"})
