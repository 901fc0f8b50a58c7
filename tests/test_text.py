"""Texts from elsewhere (answers, prompts, golds, settings, paths) are shown letter by letter, wherever that is."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from experiments.demo_llm_answers import Answer, side_by_side, side_by_side_markdown
from minicppo.cli.console import Terminal, table
from minicppo.plots.results import markdown
from minicppo.text import HIDDEN, markdown_cell, printable

MARKUP = ["[/b]", "[bold]x[/]", "[INST] x [/INST]", "[link=/a]x[/link]", "[a,b]", "\\[", "[@click=x]"]
CONTROL = ["\x1b]0;T\x1b\\", "\x1b[2J", "\x9b2J", "a\rb", "\x07", "\u202e321", "\u2066x", "\u200b", "\ud800", "\x7f"]
LINKS = ["<script>x</script>", "![x](http://a/b)", "[x](http://a)", "**right**", "`x`", "a\n| b |", "&lt;"]


def shown(thing: object) -> str:
    file = io.StringIO()
    Terminal(file=file, width=120, force_terminal=True, color_system=None).print(thing)
    return file.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_square_brackets_are_no_markup(text):
    assert text in shown(text)
    assert text in shown(table(["a"], [[text]]))
    answers = shown(side_by_side([Answer(text, "g", "x", True)], [Answer("p", "g", text, False)]))
    assert answers.count(text) == 2


@pytest.mark.parametrize("text", CONTROL)
def test_control_sequences_are_shown_and_not_sent(text):
    foreign = Table()  # one that nobody has made harmless
    foreign.add_column("a")
    foreign.add_row(text)
    for thing in (text, table([text], [[text]], title=text), foreign):
        assert not HIDDEN.search(shown(thing))
    assert not HIDDEN.search(side_by_side_markdown([Answer(text, text, text, True)], [Answer(text, text, text, False)]))


def test_a_style_of_ours_is_sent():
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system="standard").print("x", style="bold red")
    assert file.getvalue() == "\x1b[1;31mx\x1b[0m\n"


@given(st.text())
def test_printable_leaves_nothing_hidden_and_other_letters_alone(text):
    assert not HIDDEN.search(printable(text))
    assert printable(HIDDEN.sub("", text)) == HIDDEN.sub("", text)


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), min_size=1, max_size=4))
def test_a_table_keeps_its_rows_and_columns(rows):
    lines = markdown(rows).splitlines()
    assert len(lines) == len(rows) + 1
    for line in lines:
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3


@pytest.mark.parametrize("text", LINKS)
def test_a_cell_of_markdown_has_no_markup(text):
    cell = markdown_cell(text)
    assert "<" not in cell
    assert "\n" not in cell
    assert not any(f"\\{mark}" not in cell for mark in "[]*`|" if mark in text)
