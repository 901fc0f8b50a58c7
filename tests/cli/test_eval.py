"""`minicppo eval`: a run on its own task, any policy on data, and what each mistake is answered with."""

import json
from pathlib import Path
from unittest import mock

import pytest

from minicppo.rl.data import DataError
from minicppo.rl.run_dir import RunDir


@pytest.fixture
def model(trained):
    """The folder of a model that can read the sums below."""
    for module in ("math_verify", "pyarrow"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra: math)")
    return f"{trained}/checkpoints/000002/policy"


def write_sums(count: int) -> str:
    rows = [json.dumps({"question": f"{i}+1", "answer": f"{i + 1}"}) + "\n" for i in range(count)]
    Path("sums.jsonl").write_text("".join(rows))
    return "sums.jsonl"


def test_a_model_folder_on_data(minicppo, model):
    words = ["eval", model, "--data", write_sums(5), "--samples", "3", "--max-new-tokens", "6"]
    words += ["--template", "{problem}="]
    assert "Avg@3 %" in minicppo(*words).done()
    assert Path("runs/eval-policy/sums.parquet").exists(), "beside other runs unless told"
    Path("runs/eval-policy").rename("results")
    found = json.loads(minicppo(*words, "--out", "results", "--json").done())
    assert found["data"]["sums"]["problems"] == 5
    assert found["settings"]["top_p"] == 0.95
    assert "seed = 0 and not 1" in minicppo(*words, "--out", "results", "--seed", "1").refused()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["MODEL", "--data", "sums.jsonl,aime42"], "did you mean 'aime2"),
        (["MODEL", "--data", "sums.jsonl", "--template", "solve it"], "contain {problem}"),
        (["MODEL", "eval.samples=2", "--data", "sums.jsonl"], "has no settings to change"),
        (["MODEL"], "say on what, for example --data gsm8k-test"),
        (["nothing", "--data", "sums.jsonl"], "not a saved model"),
    ],
)
def test_mistakes_about_models_and_data(minicppo, model, arguments, says):
    write_sums(1)
    assert says in minicppo("eval", *(model if each == "MODEL" else each for each in arguments)).refused()


def test_a_run_on_its_task(minicppo, trained):
    (logged,) = [row for row in RunDir.open(trained).rows(kind="eval") if row["iteration"] == 2]
    found = json.loads(minicppo("eval", trained, "--json").done())
    assert (found["problems"], found["samples"]) == (8, 2)
    assert all(found[key] == logged[key] for key in ("accuracy", "accuracy_se", "greedy_accuracy", "format_rate"))
    shown = " ".join(minicppo("eval", trained).done().split())
    assert "run/checkpoints/000002, the newest checkpoint: iteration 2 of 2" in shown
    assert "Avg@2 %" in shown
    assert "greedy %" in shown


def test_an_option_of_data_is_refused_on_a_runs_own_task_and_the_setting_it_names_works(minicppo, trained):
    settings = "eval.samples=16 eval.temperature=0.5 eval.top_p=0.5 eval.batch=3 eval.seed=1 rollout.max_new_tokens=5"
    for setting in settings.split():
        name, value = setting.split(".", 1)[1].split("=")
        told = f"--{name.replace('_', '-')} {value}"
        says = f"error: {told} needs --data; for the run's own task say {setting}\n"
        assert minicppo("eval", trained, *told.split()).refused() == says
    for option in ("--template", "--out"):
        assert minicppo("eval", trained, option, "short").refused() == f"error: {option} short needs --data\n"
    assert "a run's is a setting: device=cpu" in minicppo("eval", trained, "--device", "cpu").refused()
    found = json.loads(minicppo("eval", trained, "device=cpu", "--json", *settings.split()).done())
    assert found["samples"] == 16
    assert found["length"] <= 5


def test_before_the_hub_is_asked_it_is_said(minicppo, monkeypatch):
    monkeypatch.delenv("MINICPPO_DATA", raising=False)
    monkeypatch.setattr("minicppo.rl.data.load_data", mock.Mock(side_effect=DataError("could not be fetched")))
    said = minicppo("eval", "nothing", "--data", "aime24").err.splitlines()
    assert said[0].startswith("aime24: asking the hub, as MINICPPO_DATA is not set")
    assert said[1] == "error: could not be fetched"
    assert len(minicppo("eval", "nothing", "--data", "sums.jsonl").err.splitlines()) == 1, "a file is at hand"
