"""Which problems repeat each other: what differs only in typography or a word does, what has other numbers does not."""

import pytest

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed (extra: math)")

from minicppo.rl.near_duplicates import near_duplicates, repeated, statement

ASKED = r"If $m$ and $n$ are integers such that $3m + 4n = 100$, what is the smallest possible value of $|m - n|$?"
LONG = "A farmer has 17 sheep and 25 goats, and sells 6 of the sheep. How many animals are left on his farm in the end?"


@pytest.mark.parametrize(
    "again",
    [
        ASKED.replace("|m - n|", r"\left| m - n \right|"),
        ASKED.replace("$", ""),
        ASKED.replace("?", " ?."),
        ASKED.replace(" + ", "+").replace("  ", " "),
        ASKED.replace("$3m + 4n = 100$", r"\[3m + 4n = 100\,\]"),
        ASKED.upper(),
        ASKED.replace("integers", "two whole numbers").replace("two ", ""),
        ASKED.replace("such that", "so that"),
        "14. " + ASKED,
        ASKED.replace(" + ", r" \plus{} ").replace("=", r"\equal{}"),
        ASKED + " Please provide the answer as an integer.",
        ASKED + r" The original answer is in the form \frac{m}{n}, please give the value of m + n.",
    ],
)
def test_the_same_problem_in_other_typography_or_words(again):
    assert near_duplicates([LONG, ASKED, again]) == [0, 1, 1]
    assert repeated([LONG, again], [ASKED]) == [1]


@pytest.mark.parametrize(
    ("question", "other"),
    [
        (ASKED, ASKED.replace("100", "101")),
        (ASKED, ASKED.replace("3m", "5m")),
        (LONG, LONG.replace("17", "18")),
        ("What is 3 + 3?", "What is 3 - 3?"),
        ("What is 1 + 11?", "What is 11 + 1?"),
        (r"Compute $\sin 60^\circ$.", r"Compute $\cos 60^\circ$."),
        ("How can the letters of ELEVEN be arranged?", "How can the letters of ELLIPSE be arranged?"),
    ],
)
def test_other_problems(question, other):
    assert near_duplicates([question, other]) == [0, 1]


def test_the_spelling_of_a_statement():
    assert statement(r"$\dfrac{1}{2}$ of four, $x_{1}, \ldots, x_n$.") == "1 2 of 4 x 1 x n"
    assert statement("求 $x$ 的值。请给出 m+n 的值") == "求 x 的 值"
    assert statement("[asy] draw(1, 2); [/asy] What is x?").startswith("asy draw 1 2"), "nothing else tells it apart"


def test_groups_go_through_what_stands_between():
    steps = [LONG, LONG.replace("farmer", "peasant"), LONG.replace("farmer", "peasant").replace("animals", "beasts")]
    assert near_duplicates([*steps, ASKED, steps[2]]) == [0, 0, 0, 3, 0]
    assert near_duplicates([]) == []


def test_many_statements_with_the_same_numbers_are_compared_piece_by_piece(monkeypatch):
    words = ["tree river stone cloud", "house garden bird night", "river cloud lamp mirror", "bread winter engine leaf"]
    texts = [f"{a} {b} {c}" for a in words for b in words for c in words]
    whole = near_duplicates([*texts, *texts])
    monkeypatch.setattr("minicppo.rl.near_duplicates.ROWS", 7)
    assert near_duplicates([*texts, *texts]) == whole
    assert whole[: len(texts)] == whole[len(texts) :]
