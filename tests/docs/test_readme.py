"""The README keeps its word: its Python runs, its commands and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from minicppo.cli import app

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
PYTHON = [body for language, body in BLOCKS if language == "python"]
SHELL = [
    line.split(" #")[0].strip().removeprefix("$ ").removeprefix(".venv/bin/")
    for language, body in BLOCKS
    if language in ("", "bash", "console", "sh", "shell")
    for line in body.splitlines()
]
INLINE = re.findall(r"`((?:make|minicppo) [^`]+)`", TEXT)
COMMANDS = sorted({line for line in [*SHELL, *INLINE] if line.startswith(("make ", "minicppo "))})


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_snippets_run(number: int) -> None:
    exec(compile(PYTHON[number], f"README.md, snippet {number + 1}", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line: str) -> None:
    program, name, *rest = shlex.split(line)
    if program == "make":
        (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert {word for word in [name, *rest] if "=" not in word} <= set(targets.split())
        return
    if name.startswith("-"):
        return
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands, f"README names `minicppo {name}`"
    options = {option for parameter in commands[name].params for option in parameter.opts}
    for word in rest:
        if word.startswith("-"):
            assert word in options | {"--help", "--debug"}, f"`minicppo {name}` has no option {word}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_overrides_named_in_the_readme_are_valid() -> None:
    from minicppo.rl.config import load_config

    for line in COMMANDS:
        program, name, *rest = shlex.split(line)
        if program == "minicppo" and name == "train" and not rest[0].endswith((".yaml", ".yml")):
            load_config(rest[0], [word for word in rest[1:] if "=" in word and not word.startswith("-")])
