"""The oldest versions of everything are read off pyproject.toml's bounds."""

from pathlib import Path

from experiments.oldest import oldest

PROJECT = """
[project]
dependencies = ["torch>=2.6", "transformers>=5.5", "rich>=13", "safetensors>=0.4.3", "trl>=1.16,<1.17"]
[project.optional-dependencies]
tasks = []
gguf = []
math = ["rich>=13"]
study = []
dev = ["ruff>=1", "hypothesis>=6.100"]
"""


def test_a_bound_is_a_version():
    expected = ["transformers==5.5.*", "rich==13.0.*", "safetensors==0.4.3", "trl==1.16.*", "hypothesis==6.100.*"]
    assert oldest(PROJECT) == expected


def test_every_dependency_has_a_bound():
    found = oldest(Path("pyproject.toml").read_text())
    assert {"numpy", "pydantic", "typer", "rich", "transformers", "hypothesis"} <= {
        each.split("==")[0] for each in found
    }
    assert not any(each.startswith("torch") for each in found)
