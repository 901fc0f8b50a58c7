"""The paper's tables as data: they agree with themselves but for what is listed, and with our presets."""

import json
from pathlib import Path

import pytest

from experiments.paper import TABLES, beside, inconsistencies, paper_table
from minicppo.rl.config import load_config

# Where no number of right answers among 30 x 16 gives what is printed; and where a printed mean is not the rounded mean
# of the printed numbers, which are cut off rather than rounded: all three are off by one in the second digit.
SHARES = ["1.7B DPPO aime25", "1.7B DPPO aime26", "1.7B-Base TRM-Avg aime26"]
MEANS = ["30B-A3B-Base TRM-Avg", "30B-A3B-Base TRM-Max", "8B-Base TRM-Avg"]


def evaluation(folder: Path, error: float | None = 0.02, problems: int = 30, **scores: float) -> Path:
    folder.mkdir(parents=True)
    data = {name: {"problems": problems, "accuracy": score, "accuracy_se": error} for name, score in scores.items()}
    (folder / "results.json").write_text(json.dumps({"settings": {"model": "mine", "samples": 4}, "data": data}))
    return folder


def test_what_the_tables_say_of_each_other_but_for_what_is_listed():
    rows = paper_table("table4")["rows"]
    for method, row in paper_table("table1")["rows"].items():
        for model, mean in row.items():
            assert (method in rows[model]) == isinstance(mean, float), (method, model)
            assert method not in rows[model] or abs(sum(rows[model][method]) / 3 - mean) < 0.01
    assert sorted(line.partition(":")[0] for line in inconsistencies()) == sorted(MEANS + SHARES)


def test_updates_are_prompts_over_minibatch_and_presets_say_the_same():
    rows = paper_table("table3")["rows"].values()
    assert len(rows) == 4
    for row in rows:
        assert row["updates"] == row["prompts"] // row["minibatch"]
        config = load_config(row["model"].lower())
        for key in ("prompts", "group_size", "max_new_tokens"):
            assert getattr(config.rollout, key) == row[key]
        for key in ("delta", "delta_b", "w_min", "budget"):
            assert config.make_method().params[key] == row[key]
        assert (config.train.minibatch_prompts, config.train.minibatches) == (row["minibatch"], row["updates"])
        assert (config.train.lr, config.rollout.top_log_probs, config.rollout.temperature) == (1e-6, 20, 1.0)
        assert (config.eval.samples, config.eval.temperature, config.eval.top_p) == (16, 0.7, 0.95)
        assert config.eval.data == ["aime24", "aime25", "aime26"]
        assert config.task.options["data"] == "dapo-math-17k"


@pytest.mark.parametrize("place", ["run/eval", "run/eval/results.json", "run"])
def test_an_evaluation_stands_beside(tmp_path, place):
    evaluation(tmp_path / "run" / "eval", aime24=0.3, aime25=0.2, aime26=0.1, gsm8k=0.9)
    found = beside(tmp_path / place)
    assert found.label == "mine"
    assert found.scores["aime24"] == (30.0, 2.0)
    assert found.mean == (pytest.approx(20.0), pytest.approx(2 / 3**0.5))


def test_a_part_of_the_contests_has_no_mean_a_part_of_one_no_score_and_none_of_them_no_place(tmp_path):
    assert beside(evaluation(tmp_path / "part", aime24=0.3, aime25=0.2)).mean is None
    assert beside(evaluation(tmp_path / "single", None, aime24=0.3)).scores["aime24"] == (30.0, None)
    with pytest.raises(ValueError, match="aime24 was tried on 2 of its 30 problems"):
        beside(evaluation(tmp_path / "short", problems=2, aime24=0.5))
    with pytest.raises(FileNotFoundError, match="first minicppo eval"):
        beside(tmp_path)
    with pytest.raises(ValueError, match=r"has results on gsm8k, and the paper's are on aime24, aime25, aime26"):
        beside(evaluation(tmp_path / "gsm", gsm8k=0.5))


def test_the_command_prints_all_three_tables_and_a_run_beside(experiments, tmp_path):
    folder = evaluation(tmp_path / "eval", aime24=0.3, aime25=0.2, aime26=0.1)
    text = experiments("paper", "tables", "--beside", str(folder)).done()
    for words in ("Table 3", "34.79", "collapse at step 215", "30.00 ± 2.00 (30 x 4)", "28.22 is no share of 480"):
        assert words in text
    assert "of the best of many checkpoints" in " ".join(text.split())
    everything = {name: paper_table(name) for name in TABLES} | {"inconsistencies": inconsistencies(), "beside": []}
    assert json.loads(experiments("paper", "tables", "--json").done()) == everything
