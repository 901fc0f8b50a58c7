"""The floors: a package imports only from floors below its own. Read from the source, nothing is imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minicppo"

# What each floor may import of minicppo. A package that is missing here fails until it gets its place.
FLOORS: dict[str, set[str]] = {
    "reference": set(),
    "bounds": set(),
    "kernels": set(),
    "rules": {"kernels"},
    "rl": {"rules", "kernels", "bounds"},
    "engines": {"rl", "rules", "kernels", "bounds"},
    "plots": {"rl", "rules", "kernels", "bounds"},
    "cli": {"engines", "plots", "rl", "rules", "kernels", "bounds", "reference"},
    "": {"rules", "kernels", "cli"},  # minicppo/__init__.py, the public face
}
STANDARD = set(sys.stdlib_module_names)
# The lowest floors also promise what they do without.
THIRD_PARTY: dict[str, set[str]] = {
    "reference": {"numpy"},
    "bounds": {"numpy", "scipy"},
    "kernels": {"torch", "triton"},
    "rules": {"torch", "numpy", "jaxtyping"},
}


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of everything `source` imports, at any depth: inside functions and TYPE_CHECKING too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem
            if stem == "minicppo":  # `from minicppo import rl` names a floor
                yield from (f"minicppo.{alias.name}" for alias in node.names)


def floor_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def violations(source: str, path: Path) -> list[str]:
    """Imports of `source`, standing at `path`, that point up or sideways."""
    floor = floor_of(path)
    parts = [*path.relative_to(ROOT).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    found = []
    for name in imported_modules(source, module, is_package):
        top, *rest = name.split(".")
        if top == "minicppo":
            target = rest[0] if rest and (PACKAGE / rest[0]).is_dir() else ""
            if target and target not in {floor, *FLOORS[floor]}:
                found.append(f"{path.name} imports {name}: '{floor}' may not stand on '{target}'")
            if not target and not rest and floor in THIRD_PARTY:
                found.append(f"{path.name} imports the public face, which stands above it")
        elif floor in THIRD_PARTY and top not in STANDARD | THIRD_PARTY[floor]:
            found.append(f"{path.name} imports {top}, which '{floor}' does without")
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_package_has_a_floor() -> None:
    packages = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert packages == set(FLOORS) - {""}


def test_floors_have_no_cycle() -> None:
    for floor, below in FLOORS.items():
        for other in below:
            assert floor not in FLOORS[other], f"'{floor}' and '{other}' stand on each other"
            assert FLOORS[other] <= below, f"'{floor}' stands on '{other}' but not on what that stands on"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert not violations(path.read_text(encoding="utf-8"), path)


def test_twins_share_nothing() -> None:
    assert "reference" not in FLOORS["rules"]
    assert "rules" not in FLOORS["reference"]
    assert FLOORS["rules"] & FLOORS["reference"] == set()


@pytest.mark.parametrize(
    ("floor", "planted"),
    [
        ("reference", "from minicppo.rules import mask"),
        ("reference", "import torch"),
        ("rules", "def f():\n    from minicppo.reference import loop"),
        ("rules", "from ..rl import trainer"),
        ("rules", "from minicppo import rl"),
        ("bounds", "import torch.nn"),
        ("rl", "import minicppo.plots.style as style"),
        ("plots", "if True:\n    from .. import cli"),
    ],
)
def test_a_planted_import_is_found(floor: str, planted: str) -> None:
    assert violations(planted, PACKAGE / floor / "planted.py")
