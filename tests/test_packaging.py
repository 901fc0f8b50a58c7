"""The files that say what to install, here and elsewhere, agree with each other, and the Makefile's doors open."""

import json
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

from minicppo import __version__
from tests.command_line import TINY

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


MAKEFILE = read("Makefile")
PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TARGETS = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split()
TESTED_EXTRAS = ("dev", "tasks", "math", "study", "trl", "gguf")  # what `make setup-llm` installs


def make(*arguments: str) -> str:
    done = subprocess.run(["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_requirement_is_pinned_within_its_bounds():
    lines = [line.split("==") for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in lines}
    assert not [version for version in pins.values() if "+" in version], "a local version cannot be fetched"
    assert pins["torch"] == "2.13.0"
    extras = [text for extra in TESTED_EXTRAS for text in EXTRAS[extra]]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), requirement


def test_conda_environment_citation_and_changelog_say_the_same():
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    (extras,) = re.findall(r"^EXTRAS\s*\?=\s*(\S+)", MAKEFILE, re.M)
    python, _, pip = dependencies
    assert pip == {"pip": ["-c constraints.txt", f"-e .[{extras}]"]}
    assert python.removeprefix("python=") in Requirement(f"python{PROJECT['requires-python']}").specifier
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["license"])
    assert citation["references"][0]["url"] == PROJECT["urls"]["Paper"]
    assert f"## {__version__}" in read("CHANGELOG.md")


def test_help_is_the_default_and_lists_every_target():
    text = make()
    assert text == make("help")
    assert not [target for target in TARGETS if f"make {target} " not in text]


def test_a_target_makes_its_environment_when_that_is_missing(tmp_path):
    for target in ("demo", "test", "test-fast", "lint", "theory", "bench", "figures"):
        plan = make("--dry-run", f"VENV={tmp_path}/new", target)
        install, use = plan.find("-m pip install"), plan.rfind(f"{tmp_path}/new/bin/")
        assert -1 < install < use, target


def test_every_installation_is_announced_and_pip_shows_its_progress():
    recipes = [block for block in MAKEFILE.split("\n\n") if "pip install --" in block]
    assert len(recipes) > 5
    for recipe in recipes:
        assert -1 < recipe.find("@echo '") < recipe.find("pip install --"), recipe
        assert "--quiet" not in recipe, recipe
    assert re.search(r"@echo 'Installing minicppo into \$\(VENV\): .*minute.*GB", MAKEFILE), "how long, and how large"


def test_scripts_can_be_run_and_ci_lints_and_tests():
    assert all(os.access(ROOT / script, os.X_OK) for script in (".ci/run", ".binder/postBuild"))
    lines = read(".ci/run").splitlines()
    assert lines.index("make lint") < lines.index("make test")


def test_what_binder_a_container_and_the_workflows_call_exists():
    """Where people start without a clone of their own."""
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    for text in map(read, (".binder/postBuild", ".devcontainer/devcontainer.json", *workflows)):
        assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= set(TARGETS)
        for extras in re.findall(r"\.\[([a-z,]+)\]", text):
            assert set(extras.split(",")) <= set(EXTRAS)
    for text in map(read, workflows):
        assert all(job["steps"] for job in yaml.safe_load(text)["jobs"].values())
    assert json.loads(read(".devcontainer/devcontainer.json"))["postCreateCommand"]


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone_and_works_in_an_empty_folder(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is not installed (extra: dev)")
    built, installed, empty = tmp_path / "built", tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("MINICPPO_CACHE", None)

    def run(*command):
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python = (sys.executable, "-m")
    run(*python, *"pip --quiet wheel --no-deps --no-build-isolation -w".split(), str(built), str(ROOT))
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(installed)
    wanted = [path for path in (ROOT / "minicppo").rglob("*") if path.suffix in (".py", ".yaml", ".sh", ".typed")]
    assert names >= {str(path.relative_to(ROOT)) for path in wanted}
    assert {name.split("/")[0] for name in names} == {"minicppo"}
    assert str(installed) in run(sys.executable, "-c", "import minicppo; print(minicppo.__file__)")
    row = "minicppo explain --mu .5,.4,.9 --pi .6,.48,.91 budget=fixed"
    assert "MASK, prefix" in run(*python, *row.split())
    assert "2 iterations" in run(*python, "minicppo", "train", "learn", *TINY)
    assert {path.name for path in empty.iterdir()} == {"runs"}
