"""The fuzzer finds nothing in a few seconds, and finds what is planted."""

import math

import pytest

from experiments import fuzz, fuzz_models
from experiments.architectures import DECODERS, ENCODERS

pytestmark = pytest.mark.slow
LATER = ("models", "log_probs", "killed")  # kinds of the other file


def test_nothing_is_found_in_a_few_seconds(capsys):
    assert fuzz.main(1, 0.05) == 0, capsys.readouterr().out


def test_there_are_cases_enough():
    assert sum(fuzz.COUNTS.values()) >= 10_000
    assert len({*DECODERS, *ENCODERS}) >= 60


@pytest.mark.parametrize(
    ("kind", "name", "wrong", "told"),
    [
        ("texts", "printable", lambda text: text, "hidden characters"),
        ("texts", "markdown_cell", lambda text: text, "cell"),
        ("answers", "in_range", lambda score: {}[score], "KeyError"),
        ("rows", "load_data", lambda path: {}[path], "KeyError"),
        ("settings", "load_config", lambda *_: 1 / 0, "ZeroDivisionError"),
        ("folders", "load_run", lambda run: [][0], "IndexError"),
        ("models", "load_policy", lambda path: [][0], "IndexError"),
        ("models", "sample", lambda *_, **__: 1 / 0, "ZeroDivisionError"),
        ("models", "require_agreement", lambda *_: sum([""]), "TypeError"),
        ("log_probs", "policy_loss", lambda pi, *_, **__: (pi * math.nan).sum(), "a gradient that is not finite"),
        ("killed", "train_or_resume", lambda config, run: run, "it ended otherwise"),
    ],
)
def test_what_is_planted_is_found(kind, name, wrong, told, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "COUNTS", {getattr(fuzz, kind): 25})
    monkeypatch.setattr(fuzz_models if kind in LATER else fuzz, name, wrong)
    assert fuzz.main(0) == 1
    assert told in capsys.readouterr().out
