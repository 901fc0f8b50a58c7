"""Where people start without a clone of their own: what Binder, a container and the workflows run exists."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TARGETS = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1].split()
FILES = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / ".binder" / "postBuild"]
FILES += [ROOT / ".devcontainer" / "devcontainer.json"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_targets_and_extras_exist(path):
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= set(TARGETS)
    for extras in re.findall(r"\.\[([a-z,]+)\]", text):
        assert set(extras.split(",")) <= set(EXTRAS)
    if path.suffix == ".yml":
        assert all(job["steps"] for job in yaml.safe_load(text)["jobs"].values())
    if path.suffix == ".json":
        assert json.loads(text)["postCreateCommand"]


def test_binder_can_run_its_script():
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)


def test_one_version_everywhere():
    from minicppo import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
