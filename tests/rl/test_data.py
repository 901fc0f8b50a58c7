"""Reading mathematics data: every layout, every way in which a file can be wrong, and the real files where they are."""

import json
import os
import sys
import types

import pytest

from minicppo.rl.data import FOLDER_VARIABLE, SOURCES, DataError, load_data

REAL = os.environ.get(FOLDER_VARIABLE)
GSM = [
    {"question": f"What is {i} + 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"} for i in range(4)
]


def write_jsonl(path, rows):
    lines = [(row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows]
    path.write_text("".join(lines), "utf-8", "surrogateescape")
    return path


def write_parquet(path, rows, row_group=None):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: math)")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group)
    return path


def verl_row(question, answer):
    return {
        "data_source": "x",
        "prompt": [{"content": "Be brief.", "role": "system"}, {"content": question, "role": "user"}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
    }


def pairs(data):
    return [(problem.question, problem.answer) for problem in data.problems]


def test_gsm8k_answers_stand_after_the_marks(tmp_path):
    data = load_data(str(write_jsonl(tmp_path / "gsm.jsonl", GSM)))
    assert pairs(data) == [(f"What is {i} + 1?", str(i + 1)) for i in range(4)]
    assert data.problems[2].solution == "2 + 1 = <<2+1=3>>3"
    assert [problem.row for problem in data.problems] == [1, 2, 3, 4]
    assert (data.name, data.rows, data.conflicts) == ("gsm", 4, 0)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Q", "ref_answer": r"\frac{1}{2}"}, r"\frac{1}{2}"),
        ({"problem": "Q", "answer": float("nan"), "solution": r"so \boxed{7}"}, "7"),
        ({"problem": "Q", "answer": "204", "solution": r"so \boxed{7}"}, "204"),
        ({"prompt": "Q", "solution": "34"}, "34"),
        ({"problem": "Q", "solution": r"First \boxed{1}, then \boxed 7."}, "7"),
        ({"problem": "Q", "solution": "x = 5"}, "x = 5"),
        ({"problem": "Q", "answer": r"We add 2 and 3. So it is $\boxed{5}$."}, "5"),
        ({"problem": "Q", "answer": "Evelyn"}, "Evelyn"),
        ({"problem": "Q", "answer": r"5:30 \text{ p.m.}"}, r"5:30 \text{ p.m.}"),
        ({"problem": "Q", "answer": -7}, "-7"),
        ({"problem": "Q", "answer": 1e22}, "1e+22"),
        (verl_row("Q", "34"), "34"),
    ],
)
def test_the_usual_layouts(tmp_path, row, answer):
    assert pairs(load_data(str(write_jsonl(tmp_path / "rows.jsonl", [row])))) == [("Q", answer)]


def test_answer_instructions_inside_a_question_are_dropped(tmp_path):
    wrapped = 'Solve it. Last line: Answer: $Answer\n\nWhat is 1\n\nplus 1?\n\nPut it after "Answer:".'
    rows = [{"prompt": wrapped, "answer": "2"}, {"prompt": "One?\n\nTwo?", "answer": "3"}]
    found = pairs(load_data(str(write_jsonl(tmp_path / "r.jsonl", rows))))
    assert found == [("What is 1\n\nplus 1?", "2"), ("One?\n\nTwo?", "3")]


def test_repetitions_and_contradictions_are_counted(tmp_path):
    rows = [verl_row("A?", "1"), verl_row("B?", "2"), verl_row("A?", "1"), verl_row("A?", "3")]
    data = load_data(str(write_parquet(tmp_path / "rows.parquet", rows)))
    assert pairs(data) == [("A?", "1"), ("B?", "2")]
    assert (data.rows, data.conflicts) == (4, 1)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ('{"question": "Q", "answ', "not a line of JSON"),
        ('{"question": "\udcff", "answer": "1"}', "not a line of JSON"),  # a byte that is no text
        ("[1, 2]", "a JSON object is wanted, not list"),
        ({"text": "Q", "answer": "1"}, "no question .* among the columns text, answer"),
        ({"question": "  ", "answer": "1"}, "no question"),
        ({"question": "Q", "result": "1"}, "no answer.* among the columns question, result"),
        ({"question": "Q", "answer": "so\n#### "}, "no answer"),
        ({"prompt": [{"role": "assistant", "content": "Q"}], "answer": "1"}, "no question"),
        ({"question": "Q \ud800", "answer": "1"}, "no text"),
        ({"question": "Q", "answer": "\udfff"}, "no text"),
        ({"question": "Q", "answer": "$ $"}, "no answer but typography"),
        ({"question": "Q", "solution": "I do not know."}, "no answer"),
        ({"question": "Q", "solution": "x = 5, so 2x = 10"}, "no answer, or a solution"),
        ({"question": "Q", "solution": "2 + 3 = 5\n5 + 1 = 6"}, "no answer, or a solution"),
        ({"question": "Q", "solution": "2 + 3 = 5, 5 + 1 = 6"}, "no answer, or a solution"),
        ({"question": "Q", "solution": r"It is \boxed{}."}, "no answer, or a solution"),
        ({"question": "Q", "answer": "First we add. Then 7 is left."}, "no answer, or a solution"),
        ({"question": "Q", "answer": "We add two and three\nand get 5"}, "no answer, or a solution"),
        ({"question": "Q", "answer": "so " * 30 + "5"}, "no answer, or a solution"),
        ({"question": "Q", "answer": True}, "no answer"),
        ({"question": "Q", "answer": ["5"]}, "no answer"),
        ({"question": "Q", "solution": r"\boxed{" * 2000}, r"an answer of 14,000 characters, more than 1,000"),
        ({"question": "Q", "answer": "(" * 13 + ")" * 13}, "an answer with brackets 13 deep, more than 12"),
        ({"question": "Q" * 100_001, "answer": "1"}, r"a question of 100,001 characters"),
        ('{"question": "Q", "answer": ' + "9" * 5000 + "}", "not a line of JSON"),
    ],
)
def test_a_broken_row_is_named_and_nothing_is_skipped(tmp_path, broken, says):
    path = write_jsonl(tmp_path / "rows.jsonl", [*GSM[:2], broken, *GSM[2:]])
    with pytest.raises(DataError, match=rf"rows\.jsonl: 1 of 5 rows cannot be used: row 3: {says}"):
        load_data(str(path))


def test_many_broken_rows_are_counted_and_the_first_named(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", [{"problem": "Q"}] * 9)
    with pytest.raises(DataError, match=r"9 of 9 rows .*row 1: no answer.* columns problem.*row 5: .*; and 4 more"):
        load_data(str(path))


@pytest.mark.parametrize(("start", "filled"), [(0.0, 0), (0.3, 0), (0.99, 0), (0.5, 4000)])
def test_a_parquet_file_that_is_cut_off_or_damaged_in_the_middle(tmp_path, start, filled):
    rows = [verl_row(f"{i}? {os.urandom(40).hex()}", str(i)) for i in range(2000)]
    path = write_parquet(tmp_path / "rows.parquet", rows, row_group=500)
    content = path.read_bytes()
    cut = int(start * len(content))
    path.write_bytes(content[:cut] + (b"\xff" * filled + content[cut + filled :]) * bool(filled))
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as Parquet .* cut off"):
        load_data(str(path))


def test_a_changed_file_is_read_again(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", GSM[:2])
    assert load_data(str(path)).rows == 2
    write_jsonl(path, GSM)
    os.utime(path, ns=(1, 1))
    assert load_data(str(path)).rows == 4
    write_jsonl(path, [])
    os.utime(path, ns=(2, 2))
    with pytest.raises(DataError, match="holds no problems"):
        load_data(str(path))


def test_names_and_paths_that_are_none():
    wrong = {"aime42": "did you mean 'aime2", "missing.jsonl": "no file", "gsm8k.txt": "no .jsonl or .parquet file"}
    for name, says in wrong.items():
        with pytest.raises(DataError, match=says):
            load_data(name)


def test_known_names_are_read_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    mixed = [{"data_source": s, "question": f"{s}?", "ref_answer": "1"} for s in ("MATH-500", "AIME-2025-30")]
    write_jsonl(tmp_path / "math500_aime_eval.jsonl", mixed)
    assert pairs(load_data("math-500")) == [("MATH-500?", "1")]
    with pytest.raises(DataError, match=r"has no aime24\.parquet: .*unset MINICPPO_DATA"):
        load_data("aime24")


@pytest.fixture
def answered_by(monkeypatch):
    """`answered_by(function)`: what the hub is asked for goes to it."""
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    return lambda load: monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_the_hub_is_asked_for_known_names_and_any_other(answered_by):
    asked = []

    def load(name, configuration, split):
        asked.append((name, configuration, split))
        return [{"problem": name, "answer": "1"}]

    answered_by(load)
    assert pairs(load_data("someone/some-set")) == [("someone/some-set", "1")]
    assert load_data("gsm8k-test").problems[0].row == 1
    assert asked == [("someone/some-set", None, "train"), ("openai/gsm8k", "main", "test")]


def test_no_network_and_no_package_are_clear_errors(answered_by, monkeypatch):
    def load(*arguments, **options):
        raise ConnectionError("no route")

    answered_by(load)
    with pytest.raises(DataError, match=r"could not be fetched .*no route.*set MINICPPO_DATA"):
        load_data("math-ai/other")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt -e '\.\[math\]'"):
        load_data("someone/another-set")


@pytest.mark.network
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_known_set_is_there(name, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert len(load_data(name).problems) >= 30


@pytest.mark.skipif(REAL is None, reason=f"{FOLDER_VARIABLE} names no folder with the real data files")
@pytest.mark.parametrize(
    ("name", "rows", "problems", "conflicts"),
    [
        ("dapo-math-17k", 17_917, 17_290, 11),
        ("aime24", 30, 30, 0),
        ("aime25", 30, 30, 0),
        ("aime26", 30, 30, 0),
        ("math-500", 500, 500, 0),
        ("gsm8k", 7_473, 7_473, 0),
        ("gsm8k-test", 1_319, 1_319, 0),
    ],
)
def test_the_real_files_parse_with_no_row_lost(name, rows, problems, conflicts):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: math)")
    data = load_data(name)
    assert (data.rows, len(data.problems), data.conflicts) == (rows, problems, conflicts)
    if name != "math-500":
        assert all(problem.answer.replace(",", "").lstrip("-").replace(".", "").isdigit() for problem in data.problems)
