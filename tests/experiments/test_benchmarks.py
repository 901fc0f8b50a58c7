"""Every benchmark runs at a small size: its candidates agree, its rows are whole, committed results stay untouched."""

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from docs.tools.targets import BENCH
from experiments.benchmarks import beside, corrections, gpu
from experiments.benchmarks.common import RESULTS, options, store
from experiments.benchmarks.end_to_end import peak, resident
from experiments.benchmarks.memory import tree
from minicppo.rl.tasks.chain import ChainTask

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["peers"] * 4 + ["growth in T"] * 2 + ["growth in V"] * 2
WHOLE: dict[str, Callable[..., bool]] = {  # what holds of the rows that a small run writes
    "mask": lambda *rows: [row["rows"] for row in rows] == [8, 4] and all(row["ratio"] > 0 for row in rows),
    "sampling": lambda equal, spread: equal["tokens"] == equal["rows"] * equal["cap"] > spread["tokens"],
    "scoring": lambda head, *prompts: head["memory_ratio"] < 1 and [row["gain"] > 0 for row in prompts] == [True] * 3,
    "scale": lambda row: row["rollout_tokens_per_s"] > 0 and row["mismatch"] < 1e-3,
    "end_to_end": lambda *rows: [row["kind"] for row in rows] == KINDS and all(row["ratio"] > 0 for row in rows[:4]),
    "memory": lambda row: 100 < row["largest_mb"] < row["together_mb"],
    "boards": lambda row: row["least_percent"] <= row["more_percent"] and 0 < row["calls_percent"] < 100,
}
reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [name, "--small", "--repeats", "1", "--threads", "1", *arguments])
    importlib.import_module(f"experiments.benchmarks.{name}").main()


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=reads_proc if name == "memory" else ()) for name in WHOLE])
def test_a_small_run(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip({"end_to_end": "trl", "boards": "tensorboard"}.get(name, "torch"))
    monkeypatch.setattr("experiments.benchmarks.boards.BOARDS", ("tensorboard",))
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    result, before = tmp_path / f"{name}.json", {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    run(name, monkeypatch, "--json", str(result))
    assert not list(tmp_path.glob("*.partial.json"))
    assert before == {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    found = json.loads(result.read_text())
    assert found["benchmark"] == name
    assert found["machine"]["torch"]
    assert WHOLE[name](*found["rows"]), found["rows"]
    assert capsys.readouterr().out.count("|---") > 1, "a table"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if " " in kind else ()) for kind in beside.LIMITS]
)
def test_what_two_checkouts_do_in_turns(kind, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(ChainTask, "score", ChainTask.score)  # what is done to it here goes again
    turn = beside.mask("64 x 128", True) if kind == "mask" else beside.trainer(kind, "0.1M", True)
    assert turn() > 0


@pytest.mark.slow
def test_two_checkouts_in_turns(monkeypatch, capsys):
    """Here a checkout beside itself; what it says, one turn does not settle."""
    monkeypatch.setattr(beside, "LIMITS", dict.fromkeys(beside.LIMITS, math.inf))
    beside.main([str(ROOT), "--small", "--turns", "1", "--only", "mask"])
    assert [line.split(" | ")[0][2:] for line in capsys.readouterr().out.splitlines()[2:]] == beside.NAMES[-2:]


@reads_proc
def test_the_peak_counts_memory_that_was_in_use_before():
    pieces = [bytearray(10_000) for _ in range(8_000)]  # 80 MB from the heap, which keeps them when they are freed
    kept = pieces[-1]
    del pieces
    before = resident("cpu")
    if math.isnan(before):
        pytest.skip("this system does not tell")
    pieces = [bytearray(10_000) for _ in range(4_000)]
    assert peak("cpu") - before > 30
    assert len(kept) == len(pieces[0])


@reads_proc
def test_processes_count_whichever_thread_started_them():
    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(subprocess.Popen, ["sleep", "60"]).result()
        try:
            assert child.pid in tree(os.getpid())
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize(("device", "message"), [("cuda", "no CUDA GPU"), ("tpu", "neither cpu nor cuda")])
def test_a_device_that_is_not_here_is_refused_at_once(device, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run("mask", monkeypatch, "--device", device)
    assert message in capsys.readouterr().err


def test_an_interrupted_run_keeps_its_rows_and_the_result_before(tmp_path):
    result, partial = tmp_path / "it.json", tmp_path / "it.partial.json"
    args = options("").parse_args(["--json", str(result)])
    store(args, "it", [1, 2])
    store(args, "it", [3], done=False)
    assert [json.loads(path.read_text())["rows"] for path in (result, partial)] == [[1, 2], [3]]
    store(args, "it", [3, 4])
    assert json.loads(result.read_text())["rows"] == [3, 4]
    assert not partial.exists()


def test_corrections_are_measured_once(tmp_path, monkeypatch):
    found, made = tmp_path / "corrections.json", []
    monkeypatch.setattr(corrections, "RESULTS", found)
    monkeypatch.setattr(corrections, "measure", lambda *key: made.append(key) or {"after": 0.5})
    monkeypatch.setattr(sys, "argv", ["corrections", "--seeds", "2", "--methods", "tis", "grpo"])
    corrections.main()
    each = (("mismatch", "tis"), ("mismatch", "grpo"), ("drift", "grpo"))
    assert made == [(*one, seed) for seed in (0, 1) for one in each]
    corrections.main()
    assert len(made) == len(json.loads(found.read_text())) == 6
    for setting, method in {tuple(key.split("/")[:2]) for key in json.loads((RESULTS / found.name).read_text())}:
        assert corrections.configuration(setting, method, 0).recomputes_old


def test_make_runs_them_all():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in (f"BENCHMARKS := {' '.join(BENCH)}\n", "$(BENCHMARKS) memory;", "$(BENCHMARKS) scale;"):
        assert line in makefile


def test_parts_for_a_lent_gpu_go_on_where_they_were(tmp_path, monkeypatch, capsys):
    parts = {"good": ["-c", "print('fine')"], "slow": ["-c", "import time; time.sleep(60)"], "bad": ["-c", "1 / 0"]}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "commit", lambda: "abc")
    for only, minutes, status, outcomes in (
        (["good", "bad"], "1", 1, ["good: done", "bad: FAILED"]),
        (["good"], "1", 0, ["good: done before"]),
        (["slow", "bad"], "0.002", 0, ["slow: cut off by the time", "bad: left: no time"]),
    ):
        with pytest.raises(SystemExit) as left:
            gpu.main(["--logs", str(tmp_path), "--minutes", minutes, "--only", *only])
        assert int(left.value.code) == status
        for line, outcome in zip(capsys.readouterr().out.splitlines(), outcomes, strict=True):
            assert line.startswith(outcome)
    assert (tmp_path / "abc" / "good.log").read_text() == "fine\n"
