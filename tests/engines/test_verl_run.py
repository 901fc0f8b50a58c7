"""What surrounds verl: the data it reads, the process it runs in, the exit status it ends with."""

import importlib
import json
import sys

import pytest

from minicppo.cli import main
from minicppo.engines import verl as engine
from minicppo.rl.config import ConfigError, load_config
from minicppo.rl.run_dir import RunDir
from tests.command_line import command

pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet files need pyarrow: pip install -e '.[math]'")


@pytest.fixture
def config(tmp_path):
    """An 8B run on two small files."""
    for name, count in (("train", 5), ("test", 3)):
        rows = [{"question": f"What is {i} + {i}? ({name})", "answer": str(2 * i)} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    return load_config(
        "qwen3-8b-base",
        [
            f"task.options={{data: {files['train']}, test: {files['test']}, template: 'Solve: {{problem}}'}}",
            f"eval.data=[{files['test']}]",
            "rollout.prompts=4",
            "train.minibatch_prompts=2",
        ],
    )


def test_the_data_have_verls_columns_and_our_prompts(config, tmp_path):
    counts = engine.write_data(config, tmp_path / "run")
    assert counts == {"train": 5, config.eval.data[0]: 3}
    train = parquet.read_table(tmp_path / "run/data/train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in train] == ["0", "2", "4", "6", "8"]
    assert train[1]["prompt"] == [{"role": "user", "content": config.make_task().problems["train"][1].prompt}]
    assert "What is 1 + 1?" in train[1]["prompt"][0]["content"]
    evaluation = parquet.read_table(tmp_path / "run/data/eval.parquet").to_pylist()
    assert {row["data_source"] for row in evaluation} == {config.eval.data[0]}


def test_evaluating_a_run_of_verl_names_its_merger(config, tmp_path, capsys):
    RunDir.create(tmp_path / "run", config)
    outcome = command(main, capsys)("eval", str(tmp_path / "run"), "--data", config.eval.data[0])
    assert outcome.status != 0
    assert "verl.model_merger merge" in " ".join(outcome.err.split())


def test_too_few_problems_and_evaluated_ones_are_refused(config, tmp_path):
    larger = config.model_copy(update={"rollout": config.rollout.model_copy(update={"prompts": 6})})
    data = config.task.options["data"]  # in the other's options, nothing is named as held out
    leaking = load_config("qwen3-8b-base", [f"task.options={{data: {data}}}", f"eval.data=[{data}]"])
    few = r"5 training problems, and verl draws the 6 .* smaller rollout\.prompts"
    for each, message in ((larger, few), (leaking, "would be trained on")):
        with pytest.raises(ConfigError, match=message):
            engine.write_data(each, tmp_path / "run")


@pytest.mark.filterwarnings("ignore")
def test_verl_reads_the_data(config, tmp_path):
    pytest.importorskip("verl", reason="verl is not installed: pip install -c constraints-verl.txt -e '.[verl]'")
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from minicppo.rl.grading.reward import compute_score
    from minicppo.rl.policy import character_tokenizer

    engine.write_data(config, tmp_path / "run")
    tokenizer = character_tokenizer("".join(map(chr, range(10, 127))))
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    settings = {"cache_dir": str(tmp_path), "filter_overlong_prompts": True, "max_prompt_length": 1024}
    data = RLHFDataset([str(tmp_path / "run/data/train.parquet")], tokenizer, OmegaConf.create(settings))
    assert len(data) == 5
    row = data[3]
    assert row["reward_model"]["ground_truth"] == "6"
    score = compute_score(row["data_source"], "Answer: 6", row["reward_model"]["ground_truth"], row["extra_info"])
    assert score["score"] == 1.0


def fake(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(engine, "command", lambda config, run_dir: [sys.executable, "-S", "-c", program])


def test_output_and_exit_status_are_passed_on(config, tmp_path, monkeypatch):
    fake(monkeypatch, "import sys; print('step 1'); print('oh', file=sys.stderr); sys.exit(3)")
    said = []
    run = tmp_path / "run"
    assert engine.train(config, run, said.append) == 3
    assert "step 1" in said
    assert "oh" in said
    assert load_config(run / "config.yaml") == config
    assert engine.train(config, run, said.append) == 3  # the same again goes on
    assert (run / "verl.log").read_text().count("step 1") == 2
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="another --run-dir"):
        engine.train(other, run, said.append)
    killed = [sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)"]
    assert engine.stream(killed, tmp_path / "log", said.append) == 137, "the status that a shell gives it"


def test_a_run_through_the_command_line(config, tmp_path, monkeypatch, capsys):
    """`minicppo train` and `resume`, the preconditions met and verl replaced by a program that fails."""
    fake(monkeypatch, "print('[a line of verl]'); raise SystemExit(5)")
    monkeypatch.setattr(importlib.import_module("minicppo.cli.train"), "_require", lambda config, folder, typed: None)
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    run = str(tmp_path / "run")
    for arguments in (["train", str(tmp_path / "run.yaml"), "-o", run], ["resume", run]):
        outcome = command(main, capsys)(*arguments)
        assert outcome.status == 5
        assert "[a line of verl]" in outcome.out
        assert "verl ended with status 5" in " ".join(outcome.err.split())
