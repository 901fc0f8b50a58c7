"""The paper's tables as data: they agree with themselves but for what is listed, and with our presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.paper import GRADED, TABLES, beside, inconsistencies, paper_table, right_answers
from minicppo.rl.config import load_config

# Where a printed mean is not the rounded mean of the printed numbers. The numbers are cut off rather than rounded, so
# the second digit of a mean can be off by one: all three are.
MEANS = ["30B-A3B-Base TRM-Avg", "30B-A3B-Base TRM-Max", "8B-Base TRM-Avg"]
# Where no number of right answers among 30 x 16 gives what is printed.
SHARES = ["1.7B DPPO aime25", "1.7B DPPO aime26", "1.7B-Base TRM-Avg aime26"]


def evaluation(folder: Path, scores: dict[str, float], error: float | None = 0.02) -> Path:
    folder.mkdir(parents=True)
    data = {name: {"accuracy": score, "accuracy_se": error} for name, score in scores.items()}
    (folder / "results.json").write_text(json.dumps({"settings": {"model": "mine"}, "data": data}))
    return folder


def test_the_means_of_table_4_are_those_of_table_1_but_for_three() -> None:
    means, table = paper_table("table1")["rows"], paper_table("table4")["rows"]
    off = []
    for model, rows in table.items():
        for method, values in rows.items():
            gap = abs(sum(values) / 3 - means[method][model])
            assert gap < 0.01
            if gap > 0.005:
                off.append(f"{model} {method}")
    assert sorted(off) == MEANS


def test_the_numbers_are_shares_of_480_but_for_three() -> None:
    table = paper_table("table4")
    impossible = [
        f"{model} {method} {benchmark}"
        for model, rows in table["rows"].items()
        for method, values in rows.items()
        for benchmark, value in zip(table["benchmarks"], values, strict=True)
        if right_answers(value) is None
    ]
    assert impossible == SHARES
    assert GRADED == 480


def test_every_inconsistency_is_listed_and_no_other() -> None:
    assert sorted(line.partition(":")[0] for line in inconsistencies()) == sorted(MEANS + SHARES)


def test_both_tables_have_the_same_rows() -> None:
    means, table = paper_table("table1")["rows"], paper_table("table4")["rows"]
    for method, row in means.items():
        for model, mean in row.items():
            assert (method in table[model]) == isinstance(mean, float), (method, model)


def test_updates_are_prompts_over_minibatch_and_presets_say_the_same() -> None:
    for row in paper_table("table3")["rows"].values():
        assert row["updates"] == row["prompts"] // row["minibatch"]
        config = load_config(row["model"].lower())
        assert config.rollout.prompts == row["prompts"]
        assert config.rollout.group_size == row["group_size"]
        assert config.rollout.max_new_tokens == row["max_new_tokens"]
        for key in ("delta", "delta_b", "w_min"):
            assert config.method.params[key] == row[key]


@pytest.mark.parametrize("place", ["", "results.json", None])
def test_an_evaluation_stands_beside(tmp_path: Path, place: str | None) -> None:
    folder = evaluation(tmp_path / "run" / "eval", {"aime24": 0.3, "aime25": 0.2, "aime26": 0.1, "gsm8k": 0.9})
    found = beside(tmp_path / "run" if place is None else folder / place)
    assert found.label == "mine"
    assert found.scores["aime24"] == (30.0, 2.0)
    assert found.mean == (pytest.approx(20.0), pytest.approx(2 / 3**0.5))


def test_a_part_of_the_contests_has_no_mean(tmp_path: Path) -> None:
    assert beside(evaluation(tmp_path / "part", {"aime24": 0.3, "aime25": 0.2})).mean is None
    assert beside(evaluation(tmp_path / "single", {"aime24": 0.3}, error=None)).scores["aime24"] == (30.0, None)


def test_what_cannot_stand_beside_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="first minicppo eval"):
        beside(tmp_path)
    with pytest.raises(ValueError, match=r"has results on gsm8k, and the paper's are on aime24, aime25, aime26"):
        beside(evaluation(tmp_path / "gsm", {"gsm8k": 0.5}))


class TestTheCommand:
    def test_it_prints_all_three_tables_and_a_run_beside(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        folder = evaluation(tmp_path / "eval", {"aime24": 0.3, "aime25": 0.2, "aime26": 0.1})
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["paper", "tables", "--beside", str(folder)])
        text = capsys.readouterr().out
        for words in ("Table 3", "34.79", "collapse at step 215", "30.00 ± 2.00", "28.22 is no share of 480"):
            assert words in text

    def test_json_holds_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["paper", "tables", "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert {name: found[name] for name in TABLES} == {name: paper_table(name) for name in TABLES}
        assert found["inconsistencies"] == inconsistencies()
        assert found["beside"] == []
