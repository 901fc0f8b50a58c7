"""Boards show what the log says, and never stop a run."""

import json
import sys
import time
from pathlib import Path

import pytest

from minicppo.rl import boards, trainer
from minicppo.rl.boards import NAMES, Board, Boards, load_board
from minicppo.rl.config import load_config, validate
from minicppo.rl.run_dir import RunDir
from tests.fake_runs import write_run
from tests.rl.conftest import SMALL_RUN


@pytest.fixture(autouse=True)
def _at_home(tmp_path, monkeypatch):
    """What is installed writes here, and to no server."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def feed(tmp_path: Path, name: str) -> tuple[Boards, RunDir]:
    """The rows of a made run, on one board."""
    run = RunDir(write_run(tmp_path / "run"))
    last = max(row["update"] for row in run.rows() if "update" in row)
    texts = json.loads((run.path / "trace.json").read_text())
    (run.path / "trace.json").write_text(json.dumps({**texts, "update": last}))
    shown = Boards(load_config("learn", [f"log=[{name}]"]), run)
    rows, laps = run.rows(), run.rows("timings.jsonl")
    for i, row in enumerate(rows):
        if row["kind"] == "rollout" and i > 1:
            shown.row(laps.pop(0))
        shown.row(row)
    shown.row(laps.pop(0))
    shown.close()
    return shown, run


class Recorder(Board):
    """A board that remembers, and fails at one of its points."""

    def __init__(self, *_, full_at=None):
        self.told, self.full_at = [], full_at

    def point(self, *told):
        self.told.append(told)
        if len(self.told) == self.full_at:
            raise OSError("no space left")


def test_curves_have_the_names_of_trl_where_they_mean_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(boards.MAKERS, "wandb", Recorder)
    shown, run = feed(tmp_path, "wandb")
    steps, curves, histograms, texts = zip(*shown.open["wandb"].told, strict=True)
    assert curves[-1].keys() >= {"reward", "completions/mean_length", "grad_norm", "clip_ratio/region_mean"}
    assert "eval/accuracy" in curves[-1]
    assert steps == tuple(sorted(steps))
    assert steps[-1] == max(row["update"] for row in run.rows() if "update" in row)
    assert set(histograms[-1]) == {"trace/divergence", "trace/reason"}
    assert "reasons: 0 pad" in texts[-1][-1]
    assert (histograms[0], texts[0]) == ({}, ())
    assert set(NAMES.values()) >= {"reward", "kl", "entropy", "loss"}


def test_one_that_fails_in_the_middle_of_a_run_warns_once_and_the_run_goes_on(tmp_path, monkeypatch):
    board = Recorder(full_at=2)
    monkeypatch.setattr(trainer, "load_board", lambda name: None)
    monkeypatch.setitem(boards.MAKERS, "wandb", lambda *_: board)
    changes = {"train": {**SMALL_RUN["train"], "iterations": 3}, "warmup": None, "log": ["files", "wandb"]}
    with pytest.warns(UserWarning, match="log=wandb failed and is left out from now on: OSError") as warned:
        run = RunDir(trainer.train(validate(SMALL_RUN | changes), tmp_path / "run"))
    assert len([each for each in warned if "log=wandb failed" in str(each.message)]) == 1
    assert len(board.told) == 2, "it is not asked again"
    assert len(run.rows("timings.jsonl")) == 3
    assert run.finished


def test_a_board_that_is_not_installed_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match="log=wandb needs the package 'wandb': pip install wandb"):
        load_board("wandb")
    with pytest.raises(ModuleNotFoundError, match="log=wandb"):
        trainer.train(load_config("learn", ["log=[files,wandb]"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run = feed(tmp_path, "tensorboard")
    found = EventAccumulator(str(run.path / "tensorboard")).Reload()
    logged = [row["reward"] for row in run.rows(kind="rollout")]
    assert [event.value for event in found.Scalars("reward")] == pytest.approx(logged)


def test_weights_and_biases_offline_is_written(tmp_path):
    pytest.importorskip("wandb")
    shown, run = feed(tmp_path, "wandb")
    (file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    assert shown.open
    until = time.monotonic() + 20  # another process writes it
    while b"completions/mean_length" not in file.read_bytes():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_trackio_is_read_back(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", minversion="0.20")
    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", tmp_path, raising=False)
    shown, _ = feed(tmp_path, "trackio")
    assert shown.open


def test_mlflow_is_read_back(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    shown, run = feed(tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run.path / 'mlflow.db'}")
    history = client.get_metric_history(shown.open["mlflow"].id, "reward")
    assert [metric.value for metric in history] == pytest.approx([row["reward"] for row in run.rows(kind="rollout")])
    assert list(run.path.glob("mlruns/**/responses-*.txt"))
    assert not (tmp_path / "mlruns").exists()
