"""`minicppo eval`: a run on its own task, any policy on data, and what each mistake is answered with."""

import json
from pathlib import Path

import pytest

from minicppo.rl.config import validate
from minicppo.rl.data import DataError
from minicppo.rl.policy import build_policy, save_policy
from minicppo.rl.run_dir import RunDir
from minicppo.rl.tasks import Problem, Task


class Characters(Task):
    """No task but an alphabet: a tiny model that can read the sums below."""

    name, alphabet, max_new_tokens = "characters", "0123456789Answer: +?$\n", 8

    def problem(self, rng: object) -> Problem:
        raise NotImplementedError

    def score(self, problem: Problem, response: str) -> float:
        raise NotImplementedError

    def well_formed(self, problem: Problem, response: str) -> bool:
        raise NotImplementedError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = validate({"model": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2}})
    folder = tmp_path_factory.mktemp("model")
    save_policy(build_policy(config.model, Characters(), seed=0), folder)
    return str(folder)


def write_sums(count: int) -> str:
    rows = [json.dumps({"question": f"{i} + 8", "answer": f"{i + 8}"}) + "\n" for i in range(count)]
    Path("sums.jsonl").write_text("".join(rows))
    return "sums.jsonl"


class TestOnData:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("math_verify", reason="math-verify is not installed (extra: math)")
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: math)")

    def test_a_model_folder(self, minicppo, model):
        words = ["eval", model, "--data", write_sums(5), "--samples", "3", "--max-new-tokens", "6"]
        words += ["--template", "{problem}?"]
        assert "Avg@3 %" in minicppo(*words, "--out", "results").done()
        assert Path("results/sums.parquet").exists()
        found = json.loads(minicppo(*words, "--out", "results", "--json").done())
        assert found["data"]["sums"]["problems"] == 5
        assert found["settings"]["top_p"] == 0.95
        assert "seed = 0 and not 1" in minicppo(*words, "--out", "results", "--seed", "1").refused()
        minicppo(*words).done()
        assert (Path("runs") / f"eval-{Path(model).name}" / "results.json").exists(), "beside other runs unless told"

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--data", "aime42"], "did you mean 'aime2"),
            (["--data", "none.jsonl"], "there is no file 'none.jsonl'"),
            (["--data", "sums.jsonl", "--template", "solve it"], "contain {problem}"),
            (["eval.samples=2", "--data", "sums.jsonl"], "has no settings to change"),
            ([], "say on what, for example --data gsm8k-test"),
        ],
    )
    def test_mistakes(self, minicppo, model, arguments, says):
        write_sums(1)
        assert says in minicppo("eval", model, *arguments).refused()
        assert "not a saved model" in minicppo("eval", "nothing", "--data", "sums.jsonl").refused()


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
    settings = ["eval.samples=16", "eval.temperature=0.5", "eval.top_p=0.5", "eval.batch=3", "eval.seed=1"]
    settings.append("rollout.max_new_tokens=5")
    for setting in settings:
        name, value = setting.split(".", 1)[1].split("=")
        told = f"--{name.replace('_', '-')} {value}"
        assert minicppo("eval", trained, *told.split()).refused() == (
            f"error: {told} needs --data; for the run's own task say {setting}\n"
        )
    for option in ("--template", "--out"):
        assert minicppo("eval", trained, option, "short").refused() == f"error: {option} short needs --data\n"
    assert "a run's is a setting: device=cpu" in minicppo("eval", trained, "--device", "cpu").refused()
    found = json.loads(minicppo("eval", trained, "device=cpu", "--json", *settings).done())
    assert found["samples"] == 16
    assert found["length"] <= 5


def test_an_interrupted_evaluation_of_a_run_says_what_is_kept(minicppo, trained, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("minicppo.rl.evaluate.evaluate", interrupt)
    outcome = minicppo("eval", trained)
    assert outcome.status == 130
    assert "Stopped. Nothing of it is kept" in outcome.err


def test_before_the_hub_is_asked_it_is_said(minicppo, monkeypatch):
    def no_network(name):
        raise DataError(f"{name} could not be fetched")

    monkeypatch.delenv("MINICPPO_DATA", raising=False)
    monkeypatch.setattr("minicppo.rl.data.load_data", no_network)
    said = minicppo("eval", "nothing", "--data", "aime24").err.splitlines()
    assert said[0].startswith("aime24: asking the hub, as MINICPPO_DATA is not set")
    assert said[1] == "error: aime24 could not be fetched"
    assert len(minicppo("eval", "nothing", "--data", "sums.jsonl").err.splitlines()) == 1, "a file is at hand"
