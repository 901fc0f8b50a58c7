"""The pages keep their word: Python runs, commands, paths and links exist, generated blocks are current."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from docs.tools.readme import PAGES, filled
from experiments.__main__ import app as experiments
from experiments.benchmarks.readings import PAIRS, RESULT
from minicppo.cli import app
from minicppo.rl.config import load_config
from minicppo.rules import get_method
from tests.rules.test_mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
README, LOG = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "REPRODUCTION.md"))
USE = README + "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("methods.md", "scale.md"))
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```", USE, re.M | re.S)
PYTHON = [body for language, body in BLOCKS if language == "python"]
SHELL = [line.split(" #")[0].strip() for language, body in BLOCKS if language == "bash" for line in body.splitlines()]
INLINE = re.findall(r"`((?:make|minicppo|python -m experiments) [^`]+)`", USE)
PROGRAMS = ("make ", "minicppo ", "python -m experiments ")
COMMANDS = sorted({line for line in [*SHELL, *INLINE] if line.startswith(PROGRAMS)})
TESTS = {name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}

# the ten questions of a newcomer, and the word of each that the name of its file or folder must have
QUESTIONS = {
    "loss": "loss", "mask": "mask", "DPPO": "dppo", "GRPO": "grpo", "Top-K divergence": "divergence",
    "rollouts": "rollout", "AIME evaluation": "evaluate", "8B": "8b", "method": "methods", "task": "tasks",
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_snippets_run(number, capsys):
    exec(compile(PYTHON[number], f"snippet {number + 1}", "exec"), {"__name__": "readme"})
    assert "-0.0000" not in capsys.readouterr().out


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_map_answers_ten_questions_by_a_name():
    rows = re.findall(r"^\| ([^|]*\?) \| (.*) \|$", README.split("## Where is what")[1].split("## ")[0], re.M)
    assert len(rows) == len(QUESTIONS)
    for (question, answer), (about, word) in zip(rows, QUESTIONS.items(), strict=True):
        path = re.findall(r"\]\(([^)#]+)\)", answer)[0]
        assert about in question
        assert (ROOT / path).exists(), path
        assert word in Path(path).name.lower(), path


def test_commands_exist_and_their_settings_are_valid():
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    groups = {"minicppo": typer.main.get_group(app), "python": typer.main.get_group(experiments)}
    assert len(COMMANDS) > 20
    for line in COMMANDS:
        program, *words = shlex.split(line)
        if program == "make":
            assert {word for word in words if "=" not in word} <= set(targets.split()), line
            continue
        name, *rest = words[2:] if program == "python" else words
        if name.startswith("-"):
            continue
        assert name in groups[program].commands, line
        options = {option for parameter in groups[program].commands[name].params for option in parameter.opts}
        named = {word for word in rest if word.startswith("-")}
        assert name == "paper" or named <= options | {"--help", "--debug"}, line
        if name == "train" and "--plugin" not in named:
            load_config(rest[0], [word for word in rest[1:] if "=" in word and not word.startswith("-")])


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *PAGES[1:], "results/README.md"])
def test_links_lead_somewhere_and_generated_blocks_are_current(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in set(re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)):
        assert ((ROOT / page).parent / target).exists(), target
    assert page not in PAGES or filled(text) == text, f"{page} lags behind its sources: run `make docs`"


def test_what_the_log_names_exists_and_was_measured():
    named = set(re.findall(r"`([a-z]\w*_\w+)`", LOG)) - {"w_min", "response_mask", "max_new_tokens"}
    assert len(named) > 30
    assert named <= TESTS, named - TESTS
    assert set(re.findall(r'mutant "([^"]+)"', LOG)) <= set(MUTANTS)
    rows = set(json.loads(RESULT.read_text())["rows"])
    lines = LOG.split("## CPPO")[1].split("## What each reading changes")[0].splitlines()
    cells = [line.rsplit("|", 2)[1] for line in lines if line.startswith("|")]
    keys = {key for cell in cells for key in re.findall(r"`([\w-]+)`", cell)}
    assert keys <= rows == set(PAIRS)
    assert len(keys) >= 18
    for reading in (each for pair in PAIRS.values() for each in pair):
        get_method(reading.method, **reading.params)
