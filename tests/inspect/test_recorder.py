"""The recorder under TRL: what it writes is what the loss saw, and it stops no run.

Of two ranks: tests/engines/test_trl_two_ranks.py.
"""

import logging
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="the recorder listens to TRL's trainers (pip install -e '.[trl]')")
pytest.importorskip("pyarrow", reason="it writes Parquet (pip install -e '.[inspect]')")

from trl import GRPOConfig, GRPOTrainer

from minicppo.inspect import Recorder, inspect
from minicppo.inspect.log import Log
from minicppo.inspect.table import table
from minicppo.rules import TokenBatch
from tests.engines.stale import tiny_policy
from tests.engines.trl_setup import PROBLEMS, no_reward, trainer_of

SETTINGS = {"max_steps": 4, "logging_steps": 1, "num_iterations": 2, "learning_rate": 0.05}


@pytest.mark.slow
def test_a_run_of_ours_inspected_masks_what_the_trainer_logged(tmp_path):
    trainer = trainer_of(tiny_policy(), tmp_path / "run", **SETTINGS)
    Recorder(tmp_path / "log", every=1, rows=None).attach(trainer)
    trainer.train()
    logged = [row["mask/frac"] for row in trainer.state.log_history if "mask/frac" in row]
    assert max(logged) > 0, "the mask is idle"
    steps = inspect([tmp_path / "log"]).report["by"]["step"]
    assert [row["masked"] for row in steps] == pytest.approx(logged, abs=1e-6)
    found = table(list(Log([tmp_path / "log"]).rows()))
    assert (found.ids >= 0).all()
    assert found.steps.tolist() == sorted(found.steps.tolist())


@pytest.mark.slow
def test_a_plain_trainer(tmp_path):
    policy = tiny_policy()
    settings = {"num_generations": 2, "max_completion_length": 12, "per_device_train_batch_size": 4, "use_cpu": True}
    settings |= {"bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    trainer = GRPOTrainer(
        policy.model,
        reward_funcs=no_reward,
        args=GRPOConfig(str(tmp_path / "run"), **SETTINGS, **settings),
        train_dataset=PROBLEMS,
        processing_class=policy.tokenizer,
    )
    Recorder(tmp_path / "log", every=1, rows=3).attach(trainer)
    trainer.train()
    log = Log([tmp_path / "log"])
    found = table(list(log.rows()))
    assert len(log.files) == 4
    assert len(found.lengths) == 12, "three a step"
    assert (found.mu == found.pi)[found.steps[found.row] % 2 == 0].all(), "fresh: mu is pi"
    assert not (found.mu == found.pi)[found.steps[found.row] % 2 == 1].all()


def batch(rows: int = 3) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    mu, pi = (-torch.rand(rows, 5, generator=generator) for _ in range(2))
    return TokenBatch(pi, mu, torch.tensor([1.0, -1.0, 0.5][:rows]), torch.ones(rows, 5, dtype=torch.bool))


def test_losses_that_are_plain_functions(tmp_path, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        recorder = Recorder(tmp_path, every=2, rows=2)
        for _ in range(3):
            recorder.micro_batch(batch())
        recorder.close()
    names = [file.name for file in Log([tmp_path]).files]
    assert names == [f"step_{step:08d}-rank_{rank}.parquet" for step in (0, 2) for rank in (0, 1)]
    found = table(list(Log([tmp_path / names[0]]).rows()))
    assert found.mu.tolist() == batch().rollout_log_probs[:2].flatten().tolist()
    assert found.pi.tolist() == batch().log_probs[:2].flatten().tolist()


def test_unless_told_how_often_it_takes_a_hundredth_of_the_time(tmp_path, monkeypatch):
    now, spent = [1000.0], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "thread_time", lambda: spent[0])
    recorder = Recorder(tmp_path)
    take = recorder.take
    monkeypatch.setattr(recorder, "take", lambda *a, **k: (take(*a, **k), spent.__setitem__(0, spent[0] + 0.03)))
    for _ in range(40):  # steps of half a second, of which recording takes 30 ms
        recorder.micro_batch(batch())
        recorder.close()
        now[0] += 0.5
    assert [int(path.name[5:13]) for path in sorted(tmp_path.iterdir())] == [0, 24]
    assert recorder.due(5) is recorder.due(5)


def test_what_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    recorder = Recorder(Path(tmp_path) / "taken", every=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            recorder.micro_batch(batch())
        recorder.close()
    assert [record.getMessage().startswith("nothing more is recorded") for record in caplog.records] == [True]


def test_wrong_settings_are_refused(tmp_path):
    for settings in ({"every": 0}, {"rows": -1}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            Recorder(tmp_path, **settings)
