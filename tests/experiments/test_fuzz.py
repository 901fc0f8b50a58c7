"""The fuzzer finds nothing in a few seconds, and finds what is planted."""

import pytest

from experiments import fuzz

pytestmark = pytest.mark.slow


def test_nothing_is_found_in_a_few_seconds(capsys):
    assert fuzz.main(1, 12) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "name", "wrong", "told"),
    [
        ("texts", "printable", lambda text: text, "hidden characters"),
        ("texts", "markdown_cell", lambda text: text, "cell"),
        ("answers", "in_range", lambda score: {}[score], "KeyError"),
        ("rows", "load_data", lambda path: {}[path], "KeyError"),
        ("settings", "load_config", lambda *_: 1 / 0, "ZeroDivisionError"),
        ("folders", "load_run", lambda run: [][0], "IndexError"),
    ],
)
def test_what_is_planted_is_found(kind, name, wrong, told, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, name, wrong)
    monkeypatch.setattr(fuzz, "SHARES", {getattr(fuzz, kind): 1})
    assert fuzz.main(0, 0.3) == 1
    assert told in capsys.readouterr().out
