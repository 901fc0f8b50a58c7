"""A run killed between two updates of one rollout and resumed is the run that was not; its folder is any run's."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.engines import trl_run
from minicppo.engines.trl import resume, train
from minicppo.engines.trl_checkpoint import load_rollout, require_rollouts, save_rollout, whole_checkpoint
from minicppo.plots.results import results
from minicppo.plots.runs import load_run
from minicppo.rl.config import RunConfig, validate
from minicppo.rl.run_dir import RunDir
from minicppo.rl.trainer import train as local_train
from minicppo.rl.trainer import trained_policy
from tests.engines.stale import ROOT
from tests.engines.trl_setup import feature

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {
    "task": {"name": "chain", "options": {"steps": 1}},
    "method": {"name": "cppo-topk", "params": {"delta": 0.02, "delta_b": 0.002}},
    "model": {"hidden_size": 16, "intermediate_size": 32, "layers": 2, "heads": 2},
    "rollout": {"prompts": 8, "group_size": 4, "cells": 4},
    "train": {"iterations": 2, "minibatches": 2, "epochs": 2, "lr": 1e-2, "lr_warmup": 2, "checkpoint_every": 1},
    "eval": {"every": 1, "problems": 4, "samples": 2},
    "warmup": {"target": 0.0, "check_every": 90, "anneal": 10, "batch": 16, "lr": 1e-2},
}
# Killed at the fourth update, before it is saved: the newest checkpoint stands in the middle of a rollout.
KILLED = """
import os, signal, sys
from minicppo.engines import trl_run
from tests.engines.test_trl_resume import every_update, small_run
every_update(setattr)
trl_run.train(small_run(), sys.argv[1], lambda row: row.get("update") == 4 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture(scope="module", autouse=True)
def _shared_warmup(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINICPPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def small_run(**changes: Any) -> RunConfig:
    return validate({**SETTINGS, **changes})


def every_update(put: Any) -> None:
    """Checkpoints after every update, where a user's are between iterations."""
    whole = trl_run.trl_config

    def finer(*args: Any) -> Any:
        found = whole(*args)
        found.save_steps = 1
        return found

    put(trl_run, "trl_config", finer)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder, its events, and the checkpoints that there were each time that one was called whole."""
    events, beside = [], []

    def write(path, content):
        beside.append(sorted(folder.name for folder in path.parent.parent.glob("checkpoint-*")))
        path.write_bytes(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl_run, "write_atomically", write)
        folder = train(small_run(), tmp_path_factory.mktemp("run") / "run", lambda row: events.append(row["kind"]))
    return folder, events, beside


@pytest.fixture
def stopped(finished, tmp_path):
    """A copy, with the one checkpoint that it keeps, as a kill before the end leaves it."""
    run = shutil.copytree(finished[0], tmp_path / "stopped")
    (run / "summary.json").unlink()
    return run


@feature("killed between two updates of one rollout and resumed: to the bit", "works")
def test_killed_and_resumed_is_not_killed(finished, tmp_path, monkeypatch):
    every_update(monkeypatch.setattr)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "cut")]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    half = tmp_path / "cut" / "trl" / "checkpoint-4"
    half.mkdir()  # as if it had been killed while saving
    newest = whole_checkpoint(RunDir.open(tmp_path / "cut"), remove=True)
    assert newest.name == "checkpoint-3"
    assert not half.exists()
    resume(tmp_path / "cut")
    for name in ("metrics.jsonl", "checkpoints/000002/policy/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (finished[0] / name).read_bytes(), name


@feature("`minicppo train --engine trl`", "works")
def test_a_run_reads_like_any_other(finished):
    folder, events, beside = finished
    events = [kind for kind in events if kind not in ("warmup", "start")]
    assert events == ["eval", *2 * ["rollout", *4 * ["update"], "eval", "iteration"]]
    run = load_run(folder)
    updates = run.rows("update")
    assert [row["update"] for row in updates] == list(range(1, 9))
    assert all(row["mismatch"] < 1e-5 for row in run.rows("rollout"))
    assert updates[0]["mismatch/div/mean"] < 1e-6
    assert "div/mean" not in updates[0]
    assert updates[1]["div/mean"] > 1e-4
    assert max(row["mask/frac"] for row in updates) > 0.01
    assert sum(row["grad_norm"] > 0 for row in updates) > 4, "at most of a minibatch all groups have equal rewards"
    assert results([run])
    saved = load_file(folder / "checkpoints/000002/policy/model.safetensors")
    assert trained_policy(folder).model.state_dict().keys() >= saved.keys()
    assert beside == [["checkpoint-4"], ["checkpoint-4", "checkpoint-8"]], "the old one stays until the new is whole"
    assert [path.name for path in (folder / "trl").glob("checkpoint-*")] == ["checkpoint-8"]  # it keeps one
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(small_run(), folder)
    assert resume(folder) == folder  # finished: nothing to do


@feature("`minicppo train --engine trl`: the local trainer's run, update by update", "works")
@pytest.mark.parametrize(
    "changes",
    [
        {"loss_agg_mode": "token-mean", "normalize_std": True, "micro_batch": 4},
        {},
        {"loss_agg_mode": "seq-mean-token-mean", "micro_batch": 8},
        {"loss_agg_mode": "seq-mean-token-sum", "normalize_std": True},
    ],
)
def test_both_engines_make_the_same_run(changes, tmp_path, capsys):
    config = small_run(train={**SETTINGS["train"], "drop_groups": False, **changes})
    runs = [load_run(run(config, tmp_path / name)) for name, run in (("local", local_train), ("trl", train))]
    compared = {
        "rollout": "iteration reward format_rate length dropped_groups",
        "update": "update loss grad_norm lr drift mask/frac",
    }
    for kind, keys in compared.items():
        for local, trl in zip(*(run.rows(kind) for run in runs), strict=True):
            wanted = {key: local[key] for key in keys.split()}
            assert {key: trl[key] for key in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert max(row["mask/frac"] for row in runs[1].rows("update")) > 0.01, "the mask is idle"
    assert "groups of equal rewards are kept" not in capsys.readouterr().out


def test_whole_runs_of_both_engines_agree():
    """The committed pairs: as many updates, and differences within two standard errors and a hundredth of the mean."""
    pairs = json.loads((ROOT / "experiments/benchmarks/results/engines.json").read_text()).values()
    assert len(pairs) >= 8
    for pair in pairs:
        assert pair["local"]["updates"] == pair["trl"]["updates"] == 320
        assert pair["together"] > 100
    for name in ("drift", "masked", "reward"):
        gaps = [pair["trl"][name] - pair["local"][name] for pair in pairs]
        mean = statistics.fmean(pair["local"][name] for pair in pairs)
        assert abs(statistics.fmean(gaps)) <= 2 * statistics.stdev(gaps) / len(gaps) ** 0.5 + 0.01 * mean, name


@feature("`train.drop_groups`: groups of equal rewards are kept, and said to be", "works")
def test_groups_of_equal_rewards_are_said_to_be_kept(tmp_path, capsys):
    config = small_run(train={**SETTINGS["train"], "epochs": 1, "minibatches": 4, "drop_groups": True})
    runs = [load_run(run(config, tmp_path / name)) for name, run in (("local", local_train), ("trl", train))]
    assert len(runs[0].rows("update")) < len(runs[1].rows("update")) == 8
    assert "--engine local leaves them out" in capsys.readouterr().out


@feature("a checkpoint of which a file is damaged", "refused")
@pytest.mark.parametrize(
    "name", "rollout_0.safetensors minicppo.json model.safetensors optimizer.pt trainer_state.json config.json".split()
)
@pytest.mark.parametrize("damage", [lambda whole: whole[:4], lambda whole: b"", lambda whole: b"\0" * len(whole)])
def test_a_damaged_checkpoint_is_named(name, damage, stopped):
    file = stopped / "trl" / "checkpoint-8" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"checkpoint-8/{name} cannot be used: .*remove .*checkpoint-8"):
        resume(stopped)


def test_moments_of_another_model_are_refused(stopped):
    file = stopped / "trl" / "checkpoint-8" / "optimizer.pt"
    saved = torch.load(file)
    saved["state"][3]["exp_avg_sq"] = torch.zeros(2)
    torch.save(saved, file)
    with pytest.raises(ValueError, match=r"optimizer\.pt cannot be used: moments of another shape"):
        resume(stopped)


def test_nothing_is_touched_before_the_lock_is_held(stopped):
    (stopped / "trl" / "checkpoint-9").mkdir()
    (stopped / "trl" / "checkpoint-9" / "half.json").touch()

    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in stopped.rglob("*") if path.is_file() and path.name != ".lock"}

    before = content()
    with RunDir(stopped).locked(), pytest.raises(BlockingIOError, match="another process"):
        resume(stopped)
    assert content() == before


def test_only_our_own_half_written_checkpoints_are_removed(tmp_path):
    folder, elsewhere = tmp_path / "run" / "trl", tmp_path / "elsewhere"
    mine = ["checkpoint-4-best", "checkpoint-best", "checkpoint-", "checkpoint-4.old", "checkpoint--4"]
    for name in (*mine, "checkpoint-4"):
        (folder / name).mkdir(parents=True)
    (elsewhere / "checkpoint-4").mkdir(parents=True)
    (folder / "checkpoint-5").symlink_to(elsewhere)
    (folder / "checkpoint-6").write_text("a file")
    run = RunDir(tmp_path / "run")
    assert whole_checkpoint(run) is None
    assert (folder / "checkpoint-4").exists()
    assert whole_checkpoint(run, remove=True) is None
    assert sorted(path.name for path in folder.iterdir()) == sorted([*mine, "checkpoint-5", "checkpoint-6"])
    folder.rename(tmp_path / "aside")
    for name in ("trl", "checkpoints"):
        (tmp_path / "run" / name).symlink_to(elsewhere)
        with pytest.raises(ValueError, match=f"{name} is a link out of the run"):
            whole_checkpoint(run, remove=True)
        (tmp_path / "run" / name).unlink()
    assert (elsewhere / "checkpoint-4").exists()


@feature("resuming a checkpoint of `GRPOTrainer`, or of another number of processes", "refused")
@feature("lists of a saved rollout (`num_images`)", "works")
def test_the_rollout_is_kept_whole_and_read_under_its_old_names(tmp_path):
    file, mu = tmp_path / "checkpoint-3" / "rollout_0.safetensors", torch.arange(6.0).view(2, 3)
    save_rollout(file, 3, [{"advantages": mu[0], "num_images": [1, 2]}, {"advantages": mu[1], "num_images": None}])
    step, parts = load_rollout(file, "cpu")
    assert (step, [part["num_images"] for part in parts]) == (3, [[1, 2], None])
    assert torch.equal(torch.stack([part["advantages"] for part in parts]), mu)
    save_file({"0/rollout_cell_ids": mu, "0/rollout_cell_log_probs": mu + 1}, file, {"step": "1", "parts": "1"})
    assert load_rollout(file, "cpu")[1][0].keys() == {"rollout_top_ids", "rollout_top_log_probs"}
    require_rollouts(file.parent, 1)
    for processes in (0, 2):  # fewer too: the rollouts of those that are missing would go unused
        with pytest.raises(ValueError, match="saved by GRPOTrainer, or by another number of processes"):
            require_rollouts(file.parent, processes)
