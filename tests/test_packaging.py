"""The files that say what to install agree with each other, and the Makefile's doors open."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.command_line import TINY

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TESTED_EXTRAS = ("dev", "tasks", "math", "study", "trl", "gguf")  # what `make setup-llm` installs


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "every constraint is name==version"
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    texts = [*PROJECT["dependencies"]]
    for extra in TESTED_EXTRAS:
        texts += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def make(*arguments: str) -> str:
    done = subprocess.run(["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(version)


def test_pins_are_public_versions_of_the_tested_set() -> None:
    assert not [f"{name}=={version}" for name, version in pins().items() if "+" in version]
    assert pins()["torch"] == "2.13.0"


def test_conda_environment_says_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    extras = re.search(r"^EXTRAS\s*\?=\s*(\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert extras is not None
    assert pip == ["-c constraints.txt", f"-e .[{extras.group(1)}]"]
    (python,) = [d for d in conda if d.startswith("python=")]
    assert python.removeprefix("python=") in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_citation_and_changelog_name_the_version() -> None:
    from minicppo import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation["references"][0]["url"] == PROJECT["urls"]["Paper"]
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_help_is_the_default_and_lists_every_target() -> None:
    text = make()
    assert text == make("help")
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert declared is not None
    for target in declared.group(1).split():
        assert f"make {target} " in text, f"make help does not mention {target}"


@pytest.mark.parametrize("target", ["demo", "test", "test-fast", "lint", "theory", "bench", "figures"])
def test_a_target_makes_its_environment_when_that_is_missing(target: str, tmp_path: Path) -> None:
    plan = make("--dry-run", f"VENV={tmp_path}/new", target)
    install, use = plan.find("-m pip install"), plan.rfind(f"{tmp_path}/new/bin/")
    assert -1 < install < use


def test_ci_calls_lint_and_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines.index("make lint") < lines.index("make test")


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone_and_works_in_an_empty_folder(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed (extra: dev)")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built, installed, empty = tmp_path / "built", tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("MINICPPO_CACHE", None)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(built), str(ROOT))
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = [path for path in (ROOT / "minicppo").rglob("*") if path.suffix in (".py", ".yaml", ".sh", ".typed")]
    assert names >= {str(path.relative_to(ROOT)) for path in wanted}
    assert {name.split("/")[0] for name in names} == {"minicppo"}

    run(*pip, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel))
    minicppo = (sys.executable, "-m", "minicppo")
    assert str(installed) in run(sys.executable, "-c", "import minicppo; print(minicppo.__file__)")
    assert "MASK, prefix" in run(*minicppo, *"explain --mu .5,.4,.9 --pi .6,.48,.91 budget=fixed".split())
    assert "cppo-exact" in run(*minicppo, "methods")
    assert "is VACUOUS at T = 8192" in run(*minicppo, "thresholds")
    assert "2 iterations" in run(*minicppo, "train", "learn", *TINY)
    assert {path.name for path in empty.iterdir()} == {"runs"}
