"""The oldest versions that pyproject.toml allows of what the tests stand on, as pip takes them: for `make test-newest`.

PyTorch stays as installed: it is large, and tested by its own bound. A bound of two numbers means any fix of that one.
"""

import re
import tomllib
from pathlib import Path

from minicppo.cli.console import say

EXTRAS = ("tasks", "math", "study")  # that of GGUF files asks for a newer transformers, and its tests skip


def oldest(pyproject: str) -> list[str]:
    """`NAME==VERSION` of each dependency, those of `EXTRAS`, and hypothesis."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for name in EXTRAS for each in extras[name])]
    asked += [each for each in extras["dev"] if each.startswith("hypothesis")]
    found = {}
    for name, bound in (re.split(">=|<|,", each)[:2] for each in asked):
        parts = bound.split(".") if "." in bound else [bound, "0"]
        found[name] = f"{name}=={'.'.join(parts)}" + (".*" if len(parts) < 3 else "")
    return [version for name, version in found.items() if name != "torch"]


if __name__ == "__main__":
    say("\n".join(oldest(Path("pyproject.toml").read_text())))
