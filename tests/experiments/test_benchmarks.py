"""Every benchmark runs at a small size: its candidates agree, its rows are whole, committed results stay untouched."""

import importlib
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.benchmarks import beside, corrections, gpu
from experiments.benchmarks.common import RESULTS, options, store
from experiments.benchmarks.end_to_end import peak, resident
from experiments.benchmarks.memory import tree
from minicppo.rl.tasks.chain import ChainTask

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("mask", "sampling", "scoring", "end_to_end", "memory", "scale")
reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [name, "--small", "--repeats", "1", "--threads", "1", *arguments])
    importlib.import_module(f"experiments.benchmarks.{name}").main()


def small(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The rows of a small run."""
    result, before = tmp_path / f"{name}.json", {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    run(name, monkeypatch, "--json", str(result))
    assert result.is_file()
    assert not list(tmp_path.glob("*.partial.json"))
    assert before == {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    found = json.loads(result.read_text())
    assert found["benchmark"] == name
    assert found["machine"]["torch"]
    return list(found["rows"])


@pytest.mark.slow
def test_mask_and_sampling(tmp_path, monkeypatch, capsys):
    rows = small("mask", monkeypatch, tmp_path)
    assert "| 8 x 64 |" in capsys.readouterr().out
    assert [row["rows"] for row in rows] == [8, 4]
    assert all(row["loop_ms"] > 0 and row["batched_ms"] > 0 and row["copies"] > 0 for row in rows)
    equal, spread = small("sampling", monkeypatch, tmp_path)
    assert (equal["lengths"], spread["lengths"]) == ("equal", "spread")
    assert equal["tokens"] == equal["rows"] * equal["cap"] > spread["tokens"]
    assert equal["times_generate"] > 0 < spread["times_generate"]


@pytest.mark.slow
def test_scoring_and_scale(tmp_path, monkeypatch):
    head, *prompts = small("scoring", monkeypatch, tmp_path)
    assert {"plain", "tiles", "products"} <= head["seconds"].keys()
    assert head["memory_ratio"] < 1
    assert len(prompts) == 3
    assert all(row["gain"] > 0 for row in prompts)
    (row,) = small("scale", monkeypatch, tmp_path)
    assert row["rollout_tokens_per_s"] > 0
    assert row["mismatch"] < 1e-3, "sampler and scorer see the same policy"


@pytest.mark.slow
def test_end_to_end(tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="trl is not installed (extra: trl)")
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path.parent))
    rows = small("end_to_end", monkeypatch, tmp_path)
    assert [row["kind"] for row in rows] == ["peers"] * 4 + ["growth in T"] * 2 + ["growth in V"] * 2
    assert all(row["ratio"] > 0 for row in rows[:4])


@pytest.mark.slow
@reads_proc
def test_memory(tmp_path, monkeypatch):
    (row,) = small("memory", monkeypatch, tmp_path)
    assert 100 < row["largest_mb"] < row["together_mb"]


@pytest.mark.parametrize("kind", beside.LIMITS)
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
    for key in json.loads((RESULTS / "corrections.json").read_text()):
        setting, method, seed = key.split("/")
        assert corrections.configuration(setting, method, int(seed)).recomputes_old


def test_make_runs_them_all():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = (line for line in makefile.splitlines() if line.startswith("BENCHMARKS :="))
    assert set(line.split(":=")[1].split()) == set(NAMES) - {"memory", "scale"}
    assert "$(BENCHMARKS) memory;" in makefile
    assert "$(BENCHMARKS) scale;" in makefile


def test_what_a_board_costs(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("experiments.benchmarks.boards.BOARDS", ("tensorboard",))
    monkeypatch.chdir(tmp_path)
    (row,) = small("boards", monkeypatch, tmp_path)
    assert row["board"] == "tensorboard"
    assert 0 < row["calls_percent"] < 100
    assert row["least_percent"] <= row["more_percent"] <= row["most_percent"]


def test_parts_for_a_lent_gpu_go_on_where_they_were(tmp_path, monkeypatch, capsys):
    parts = {"good": ["-c", "print('fine')"], "slow": ["-c", "import time; time.sleep(60)"], "bad": ["-c", "1 / 0"]}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "commit", lambda: "abc")

    def outcomes(*only: str, minutes: float = 1.0) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as left:
            gpu.main(["--logs", str(tmp_path), "--minutes", str(minutes), "--only", *only])
        return int(left.value.code or 0), capsys.readouterr().out.splitlines()

    assert outcomes("good", "bad")[0] == 1
    assert outcomes("good") == (0, ["good: done before"])
    status, lines = outcomes("slow", "bad", minutes=0.01)
    assert status == 0
    assert "cut off by the time" in lines[0]
    assert lines[1] == "bad: left: no time"
    assert (tmp_path / "abc" / "good.log").read_text() == "fine\n"
