"""`minicppo eval`: a run on its own task, any policy on data, and what each mistake is answered with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minicppo.cli import main
from minicppo.rl.config import validate
from minicppo.rl.policy import build_policy, save_policy
from minicppo.rl.run_dir import RunDir
from minicppo.rl.tasks import Problem, Task
from minicppo.rl.trainer import train
from tests.rl.conftest import SMALL_RUN


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
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = validate({"model": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2}})
    folder = tmp_path_factory.mktemp("model")
    save_policy(build_policy(config.model, Characters(), seed=0), folder)
    return folder


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i} + 8", "answer": f"{i + 8}"}) + "\n" for i in range(5)))
    return path


def call(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


class TestOnData:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("math_verify", reason="math-verify is not installed (extra: math)")
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: math)")
        monkeypatch.chdir(tmp_path)

    def test_a_model_folder(self, model: Path, sums: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--data", str(sums), "--samples", "3", "--max-new-tokens", "6", "--template", "{problem}?"]
        assert call("eval", str(model), *options, "--out", "results") == 0
        text = capsys.readouterr().out
        assert "Avg@3 %" in text
        assert Path("results/sums.parquet").exists()
        assert call("eval", str(model), *options, "--out", "results", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["data"]["sums"]["problems"] == 5
        assert found["settings"]["top_p"] == 0.95
        assert call("eval", str(model), *options, "--out", "results", "--seed", "1") == 2
        assert "seed = 0 and not 1" in capsys.readouterr().err

    def test_results_lie_beside_other_runs_unless_told(self, model: Path, sums: Path) -> None:
        options = ["--data", str(sums), "--samples", "2", "--max-new-tokens", "2", "--template", "{problem}?"]
        assert call("eval", str(model), *options) == 0
        assert (Path("runs") / f"eval-{model.name}" / "results.json").exists()

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
    def test_mistakes(
        self, model: Path, sums: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call("eval", str(model), *arguments) == 2
        assert says in capsys.readouterr().err

    @pytest.mark.slow
    def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same(self, model: Path, tmp_path: Path) -> None:
        many = [json.dumps({"question": f"{i} + 8", "answer": f"{i + 8}"}) + "\n" for i in range(120)]
        (tmp_path / "many.jsonl").write_text("".join(many))
        options = ["eval", str(model), "--data", "many.jsonl", "--samples", "2", "--max-new-tokens", "8"]
        options += ["--template", "{problem}?", "--out"]
        code = "import sys; from minicppo.cli import main; main(sys.argv[1:])"
        process = subprocess.Popen([sys.executable, "-c", code, *options, "killed"], cwd=tmp_path)
        record = tmp_path / "killed" / "many.jsonl"
        while process.poll() is None and not (record.exists() and record.read_bytes().count(b"\n") >= 5):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -9, "it was to be killed before its end"
        kept = record.read_text().splitlines()
        assert 5 <= len(kept) < 120
        assert call(*options, "killed") == 0
        assert call(*options, "whole") == 0
        again = record.read_text().splitlines()
        assert again[: len(kept)] == kept
        assert len(again) == 120, "no problem was sampled twice"
        assert record.read_bytes() == (tmp_path / "whole" / "many.jsonl").read_bytes()

    def test_a_folder_that_is_no_model(self, sums: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert call("eval", "nothing", "--data", str(sums)) == 2
        assert "not a saved model" in capsys.readouterr().err


def test_a_run_on_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    settings = {**SMALL_RUN, "train": {"iterations": 1, "minibatches": 2}, "warmup": None}
    run = train(validate(settings), tmp_path / "run")
    (logged,) = [row for row in RunDir.open(run).rows(kind="eval") if row["iteration"] == 1]
    capsys.readouterr()
    assert call("eval", str(run), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["samples"]) == (6, 2)
    assert all(found[key] == logged[key] for key in ("accuracy", "accuracy_se", "greedy_accuracy", "format_rate"))
    assert call("eval", str(run)) == 0
    assert "Avg@2 on 6 problems" in capsys.readouterr().out


@pytest.fixture
def tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    settings = {**SMALL_RUN, "train": {"iterations": 1, "minibatches": 2}, "warmup": None}
    return str(train(validate(settings), tmp_path / "run"))


OF_DATA = {
    "--samples": ("16", "eval.samples=16"),
    "--temperature": ("0.5", "eval.temperature=0.5"),
    "--top-p": ("0.5", "eval.top_p=0.5"),
    "--batch": ("3", "eval.batch=3"),
    "--seed": ("1", "eval.seed=1"),
    "--max-new-tokens": ("5", "rollout.max_new_tokens=5"),
}


def test_an_option_of_data_is_refused_on_a_runs_own_task_and_the_setting_it_names_works(
    tiny_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, (value, setting) in OF_DATA.items():
        assert call("eval", tiny_run, option, value) == 2
        error = capsys.readouterr().err
        assert error == f"error: {option} {value} needs --data; for the run's own task say {setting}\n"
    for option in ("--template", "--out"):
        assert call("eval", tiny_run, option, "short") == 2
        assert capsys.readouterr().err == f"error: {option} short needs --data\n"
    assert call("eval", tiny_run, "--device", "cpu") == 2
    assert "a run's is a setting: device=cpu" in capsys.readouterr().err
    settings = [setting for _, setting in OF_DATA.values()]
    assert call("eval", tiny_run, "device=cpu", "--json", *settings) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 16
    assert found["length"] <= 5


def test_an_interrupted_evaluation_of_a_run_says_what_is_kept(
    tiny_run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minicppo.rl.evaluate.evaluate", interrupt)
    capsys.readouterr()
    assert call("eval", tiny_run) == 130
    assert "Stopped. Nothing of it is kept" in capsys.readouterr().err
