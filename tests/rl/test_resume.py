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


@pytest.mark.parametrize(
    ("kind", "count", "staleness"),
    [("update", 9, 3), *(pytest.param(*at, marks=pytest.mark.slow) for at in (("update", 1, 0), ("eval", 2, 3)))],
)
def test_resume_to_the_bit(small_config, tmp_path, kind, count, staleness):
    config, run = small_config(train={"staleness": staleness, "iterations": 3}), tmp_path / "run"
    with pytest.raises(Stopped):
        train_or_resume(config, run, stop_at(kind, count))
    half = run / "checkpoints" / ".000003.9999999.abcdefgh"  # no process has this number
    half.mkdir(parents=True)
    (half / "state.json").write_text('{"iteration": 3')
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "upd')  # a row cut off by the crash
    train_or_resume(config, run)
    assert_same_runs(train(config, tmp_path / "whole"), run)
    assert len(RunDir.open(run).rows("timings.jsonl")) == 3
    before = (run / "summary.json").stat().st_mtime_ns
    assert resume(run) == run, "a finished run is left alone"
    assert (run / "summary.json").stat().st_mtime_ns == before


def test_the_newest_checkpoints_stay_and_the_base_model_is_needed_no_longer(small_config, policy, tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    save_policy(policy, base)
    checkpoints = {"checkpoint_every": 1, "keep_checkpoints": 2}
    config = small_config(model={"path": str(base)}, warmup=None, train=checkpoints)
    with pytest.raises(Stopped):
        train(config, run, stop_at("rollout", 3))
    base.rename(tmp_path / "gone")
    trained_policy(run)
    resume(run)
    assert RunDir.open(run).config() == config
    newest = sorted((run / "checkpoints").iterdir())
    assert [path.name for path in newest] == ["000003", "000004"]
    shutil.copytree(newest[0], run / "checkpoints" / "000002")  # as if killed before its removal
    (run / "summary.json").unlink()
    resume(run)
    assert RunDir.open(run).finished
    assert sorted((run / "checkpoints").iterdir()) == newest
    with pytest.raises(ValueError, match=r"base' does not exist"):
        train(small_config(model={"path": str(base)}), tmp_path / "new")
    RunDir.create(tmp_path / "begun", config)
    with pytest.raises(ValueError, match=r"begun/config\.yaml: model: path = .* does not exist"):
        resume(tmp_path / "begun")


def test_nothing_to_resume(tmp_path, small_config):
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no config\.yaml"):
        resume(tmp_path)
    run = RunDir.create(tmp_path / "fresh", small_config())
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        trained_policy(run.path)
    with run.locked(), pytest.raises(BlockingIOError, match="is being written by another process"):
        resume(run.path)
    assert run.rows() == []
    with pytest.raises(ValueError, match=r"metrics\.jsonl has 0 bytes, fewer than the 9"):
        run.truncate_logs({"metrics.jsonl": 9, "timings.jsonl": 0})


def command_line(arguments, cache):
    os.environ["MINICPPO_CACHE"] = cache
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has switched off for what it runs behind
    main(arguments)


@pytest.mark.slow
def test_signals_at_any_moment_of_a_command_lose_nothing(small_config, tmp_path):
    """At 9 moments; MINICPPO_KILLS=40 tries that many."""
    config = small_config(train={"checkpoint_every": 1, "keep_checkpoints": 2, "staleness": 1}, eval={"every": 1})
    (tmp_path / "settings.yaml").write_text(config.to_yaml())
    processes = multiprocessing.get_context("forkserver")  # imports once
    processes.set_forkserver_preload(["minicppo.rl.trainer", "minicppo.plots.results", "minicppo.cli.progress"])
    draw, signals = random.Random(0), itertools.cycle([signal.SIGTERM, signal.SIGINT, signal.SIGKILL])

    def command(folder, delay):
        """The exit status of `minicppo train`, with the next signal after some seconds."""
        typed = ["train", str(tmp_path / "settings.yaml"), "--run-dir", str(folder)]
        child = processes.Process(target=command_line, args=(typed, os.environ["MINICPPO_CACHE"]))
        child.start()
        child.join(delay)
        if child.is_alive():
            os.kill(child.pid, next(signals))
        child.join()
        return child.exitcode

    train(config, tmp_path / "first")  # warms up, and imports what is imported late
    assert command(tmp_path / "second", None) == 0
    begun = time.monotonic()
    assert command(tmp_path / "whole", None) == 0
    seconds = time.monotonic() - begun
    rows, ends = (tmp_path / "whole" / "metrics.jsonl").read_bytes(), []
    for i in range(int(os.environ.get("MINICPPO_KILLS", "9"))):
        run = tmp_path / str(i)
        ends.append(command(run, draw.uniform(0, seconds)))
        logged = (run / "metrics.jsonl").read_bytes() if (run / "metrics.jsonl").exists() else b""
        assert rows.startswith(logged)
        train_or_resume(config, run)
        assert_same_runs(tmp_path / "whole", run)
        assert {path.name for path in run.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert {-signal.SIGTERM, -signal.SIGKILL, 130} <= {*ends}  # 130: a command that was interrupted
