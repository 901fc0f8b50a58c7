"""A run that was stopped anywhere and resumed ends as one that was not: same bytes of metrics, same bits of weights."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from minicppo.cli import main
from minicppo.rl.policy import save_policy
from minicppo.rl.run_dir import RunDir
from minicppo.rl.trainer import resume, train, train_or_resume, trained_policy


class Stopped(Exception):
    pass


def stop_at(kind: str, count: int) -> Callable[[Mapping[str, Any]], None]:
    """An observer that raises at the `count`-th row of that kind."""
    seen = 0

    def observe(event: Mapping[str, Any]) -> None:
        nonlocal seen
        seen += event["kind"] == kind
        if seen == count:
            raise Stopped

    return observe


def assert_same_runs(first: Path, second: Path) -> None:
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    checkpoints = sorted(path.name for path in (first / "checkpoints").iterdir())
    assert checkpoints == sorted(path.name for path in (second / "checkpoints").iterdir())
    for name in ("policy/model.safetensors", "optimizer.safetensors", "history.safetensors", "state.json"):
        files = [run / "checkpoints" / checkpoints[-1] / name for run in (first, second)]
        assert files[0].is_file() == files[1].is_file()
        if name == "state.json":
            counters = [file.read_text().partition('"log_sizes"')[0] for file in files]  # timings differ in length
            assert counters[0] == counters[1]
        elif files[0].is_file():
            assert files[0].read_bytes() == files[1].read_bytes(), name
    one, two = (load_file(run / "trace.safetensors") for run in (first, second))
    assert all(bool((one[key] == two[key]).all()) for key in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of a configuration, made once."""
    made = {}

    def make(config):
        key = config.to_yaml()
        if key not in made:
            made[key] = train(config, tmp_path_factory.mktemp("whole") / "run")
        return made[key]

    return make


@pytest.fixture(scope="module")
def stopped(small_config, tmp_path_factory):
    """The small run, stopped in its last iteration, two after its checkpoint."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stopped):
        train(small_config(), folder, stop_at("rollout", 4))
    return folder


@pytest.mark.parametrize(
    ("kind", "count", "staleness"),
    [("update", 7, 3), *(pytest.param(*at, marks=pytest.mark.slow) for at in (("update", 1, 0), ("eval", 2, 3)))],
)
def test_resume_to_the_bit(small_config, whole, run_folder, kind, count, staleness):
    config = small_config(train={"staleness": staleness})
    with pytest.raises(Stopped):
        train_or_resume(config, run_folder, stop_at(kind, count))
    train_or_resume(config, run_folder)
    assert_same_runs(whole(config), run_folder)
    assert len(RunDir.open(run_folder).rows("timings.jsonl")) == 4


def test_a_finished_run_is_left_alone(small_config, whole):
    run = whole(small_config())
    before = (run / "summary.json").stat().st_mtime_ns
    assert resume(run) == run
    assert (run / "summary.json").stat().st_mtime_ns == before


def test_the_newest_checkpoints_stay_and_the_base_model_is_needed_no_longer(small_config, policy, tmp_path):
    base = tmp_path / "base"
    save_policy(policy, base)
    checkpoints = {"checkpoint_every": 1, "keep_checkpoints": 2}
    config = small_config(model={"path": str(base)}, warmup=None, train=checkpoints)
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", stop_at("rollout", 3))
    base.rename(tmp_path / "gone")
    trained_policy(tmp_path / "run")
    resume(tmp_path / "run")
    assert RunDir.open(tmp_path / "run").finished
    assert RunDir.open(tmp_path / "run").config() == config
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["000003", "000004"]
    with pytest.raises(ValueError, match=r"base' does not exist"):
        train(small_config(model={"path": str(base)}), tmp_path / "new")
    RunDir.create(tmp_path / "begun", config)
    with pytest.raises(ValueError, match=r"begun/config\.yaml: model: path = .* does not exist"):
        resume(tmp_path / "begun")


def test_a_half_written_checkpoint_is_never_read(small_config, whole, stopped, run_folder):
    shutil.copytree(stopped, run_folder)
    half = run_folder / "checkpoints" / ".000004.9999999.abcdefgh"  # no process has this number
    half.mkdir()
    (half / "state.json").write_text('{"iteration": 4')
    with open(run_folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "upd')  # a row cut off by the crash
    resume(run_folder)
    assert_same_runs(whole(small_config()), run_folder)


def test_a_log_that_lost_rows_is_refused(stopped, run_folder):
    shutil.copytree(stopped, run_folder)
    (run_folder / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has 0 bytes, fewer than the"):
        resume(run_folder)


def test_only_the_newest_checkpoints_stay(small_config, run_folder):
    train(small_config(train={"checkpoint_every": 1, "keep_checkpoints": 2}), run_folder)
    checkpoints = run_folder / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000003", "000004"]
    shutil.copytree(checkpoints / "000003", checkpoints / "000002")  # as if killed before its removal
    (run_folder / "summary.json").unlink()
    resume(run_folder)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000003", "000004"]


def test_nothing_to_resume(tmp_path, small_config):
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no config\.yaml"):
        resume(tmp_path)
    RunDir.create(tmp_path / "fresh", small_config())
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        trained_policy(tmp_path / "fresh")


def command_line(arguments, cache):
    os.environ["MINICPPO_CACHE"] = cache
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has switched off for what it runs behind
    main(arguments)


@pytest.mark.slow
def test_signals_at_any_moment_of_a_command_lose_nothing(small_config, tmp_path):
    """At 12 moments; MINICPPO_KILLS=40 tries that many."""
    config = small_config(train={"checkpoint_every": 1, "keep_checkpoints": 2, "staleness": 1}, eval={"every": 1})
    (tmp_path / "settings.yaml").write_text(config.to_yaml())
    processes = multiprocessing.get_context("forkserver")  # imports once
    processes.set_forkserver_preload(["minicppo.rl.trainer", "minicppo.plots.results", "minicppo.cli.progress"])
    draw = random.Random(0)

    signals = itertools.cycle([signal.SIGTERM, signal.SIGINT, signal.SIGKILL])

    def command(folder, delay):
        """The exit status of `minicppo train`, with the next signal after some seconds."""
        typed = ["train", str(tmp_path / "settings.yaml"), "--run-dir", str(folder)]
        child = processes.Process(target=command_line, args=(typed, os.environ["MINICPPO_CACHE"]))
        child.start()
        child.join(delay)
        if child.is_alive() and child.pid:
            os.kill(child.pid, next(signals))
        child.join()
        return child.exitcode or 0

    train(config, tmp_path / "first")  # warms up, and imports what is imported late
    assert command(tmp_path / "second", None) == 0
    begun = time.monotonic()
    assert command(tmp_path / "whole", None) == 0
    seconds = time.monotonic() - begun
    rows, ends = (tmp_path / "whole" / "metrics.jsonl").read_bytes(), []
    for i in range(int(os.environ.get("MINICPPO_KILLS", "12"))):
        run = tmp_path / str(i)
        ends.append(command(run, draw.uniform(0, seconds)))
        logged = (run / "metrics.jsonl").read_bytes() if (run / "metrics.jsonl").exists() else b""
        assert rows.startswith(logged)
        train_or_resume(config, run)
        assert_same_runs(tmp_path / "whole", run)
        assert {path.name for path in run.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert {-signal.SIGTERM, -signal.SIGKILL, 130} <= {*ends}  # 130: a command that was interrupted


def test_a_run_is_written_by_one_process_at_a_time(small_config, run_folder):
    run = RunDir.create(run_folder, small_config())
    with run.locked(), pytest.raises(BlockingIOError, match="is being written by another process"):
        resume(run_folder)
    assert run.rows() == []
