"""A study as it runs: resumable, repeatable, and none of its finished runs is ever lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import yaml
from rich.console import Console

from experiments.study.plan import StudyConfig, grid, load_study
from experiments.study.runner import DIVERGED, WARMUP, distinct, is_done, work_through
from experiments.workers import follow
from minicppo.cli import main
from minicppo.rl.config import ConfigError

pytest.importorskip("pyarrow")

from experiments.study.study import plan_table, run_study, update_table, write_report
from experiments.study.table import Row, read_table, write_table

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "device=cpu", "task.options.steps=1", "model.hidden_size=16", "model.intermediate_size=32", "model.heads=2",
    "model.layers=1", "rollout.prompts=8", "rollout.group_size=4", "rollout.cells=4",
    "train.iterations=4", "train.minibatches=2", "train.epochs=2", "train.lr=3e-3", "train.lr_warmup=2",
    "train.checkpoint_every=1", "train.micro_batch=null", "train.autocast=\"off\"",
    "eval.every=2", "eval.problems=6", "eval.samples=2", "eval.batch=null",
    "warmup.target=0", "warmup.check_every=90", "warmup.anneal=10", "warmup.batch=16", "warmup.lr=1e-2",
]  # fmt: skip
TINY: dict[str, Any] = {
    "name": "tiny",
    "preset": "stale",
    "settings": SMALL,
    "results": "results",
    "parts": {
        "tune": {
            "title": "Thresholds",
            "question": "Which?",
            "seeds": {"first": 100, "count": 1},
            "arms": {"CPPO": {"method": "cppo-exact", "candidates": [{"delta": 0.02}, {"delta": 0.15}]}},
        },
        "headline": {
            "title": "The comparison",
            "question": "Who?",
            "seeds": {"count": 2},
            "compare": {"CPPO": ["none"]},
            "draw": ["profile", "masks", "certificate"],
            "arms": {
                "none": {"method": "none"},
                "CPPO": {"method": "cppo-exact"},
                "CPPO, tuned": {"method": "cppo-exact", "tuned": "tune"},
            },
        },
    },
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINICPPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def tiny(folder: Path, **changes: Any) -> StudyConfig:
    """The tiny study with its results under `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "results": str(folder / "results"), **changes}, sort_keys=False))
    return load_study(path)


def told(rows: list[Row]) -> list[Row]:
    """All but the seconds, which no two runs share."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny study that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_study(tiny(folder), folder / "runs", 1, [], Console(quiet=True)) == {}
    write_report(tiny(folder), "python -m experiments study tiny.yaml")
    return folder


@pytest.mark.slow
def test_a_study_from_start_to_page(whole: Path) -> None:
    rows = read_table(whole / "results" / "study.parquet")
    cells = {(row["part"], row["arm"], row["seed"]) for row in rows}
    assert len(cells) == 2 + 3 * 2
    assert len(rows) == len(cells) * 5  # iterations 0 to 4
    summary = json.loads((whole / "results" / "summary.json").read_text())
    assert summary["winners"]["tune"]["cppo-exact"]["delta"] in (0.02, 0.15)
    assert {row["arm"] for row in summary["parts"]["headline"]["rows"]} == {"none", "CPPO", "CPPO, tuned"}
    page = (whole / "results" / "README.md").read_text()
    for picture in (whole / "results" / "figures").glob("*.png"):
        assert f"figures/{picture.name}" in page
        assert picture.with_suffix(".json").is_file()


@pytest.mark.slow
def test_finished_runs_are_lean_and_left_alone(whole: Path) -> None:
    study, out = tiny(whole), whole / "runs"
    names = [path for path in out.iterdir() if path.is_dir()]
    assert all({p.name for p in run.iterdir()} == {"config.yaml", "metrics.jsonl", "timings.jsonl", "summary.json"}
               for run in names)  # fmt: skip
    before = {run: (run / "summary.json").stat().st_mtime_ns for run in names}
    table = (whole / "results" / "study.parquet").read_bytes()
    run_study(study, out, 1, [], Console(quiet=True))
    assert before == {run: (run / "summary.json").stat().st_mtime_ns for run in names}
    assert (whole / "results" / "study.parquet").read_bytes() == table
    counts = list(plan_table(study, out, []).columns[6].cells)
    assert counts == ["2", str(len(names) - 2)]


@pytest.mark.slow
def test_the_report_comes_from_the_table_alone(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = whole / "results"
    before = {p: p.read_bytes() for p in results.rglob("*") if p.suffix in (".json", ".md", ".parquet")}
    assert before
    for path in before:
        if path.suffix != ".parquet" and path.name != "machines.json":
            path.unlink()
    write_report(tiny(whole), "python -m experiments study tiny.yaml")
    assert before == {p: p.read_bytes() for p in before}


@pytest.mark.slow
def test_rows_outlive_their_runs_but_not_their_settings(whole: Path, tmp_path: Path) -> None:
    rows = read_table(whole / "results" / "study.parquet")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "study.parquet").write_bytes((whole / "results" / "study.parquet").read_bytes())
    assert update_table(tiny(tmp_path), tmp_path / "nowhere") == rows
    changed = update_table(tiny(tmp_path, settings=[*SMALL, "train.lr=1e-3"]), tmp_path / "nowhere")
    assert changed == []


@pytest.mark.slow
def test_what_the_table_holds_is_run_only_again(whole: Path, tmp_path: Path) -> None:
    study, out, table = tiny(tmp_path), tmp_path / "runs", tmp_path / "results" / "study.parquet"
    rows = read_table(whole / "results" / "study.parquet")
    last = grid(study, "headline", {})[-1]  # its other cell of the same settings goes with it
    kept = [row for row in rows if row["run"] != last.run]
    assert len(kept) < len(rows)
    write_table(kept, table)
    run_study(study, out, 1, [], Console(quiet=True))
    assert [path.name for path in out.iterdir()] == [last.run]
    assert told(read_table(table)) == told(rows)
    assert [m["device"] for m in json.loads((tmp_path / "results" / "machines.json").read_text())] == ["CPU"]

    run_study(study, out, 1, [], Console(quiet=True))
    assert len(list(out.iterdir())) == 1
    run_study(study, out, 1, ["tune"], Console(quiet=True), again=True)
    assert len(list(out.iterdir())) == 3


@pytest.mark.slow
def test_cells_of_equal_settings_share_rows_of_the_table(whole: Path, tmp_path: Path) -> None:
    rows = read_table(whole / "results" / "study.parquet")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "study.parquet").write_bytes((whole / "results" / "study.parquet").read_bytes())
    headline = TINY["parts"]["headline"]
    repeated = {**headline, "compare": {}, "arms": {"the same": headline["arms"]["none"]}}
    study = tiny(tmp_path, parts={**TINY["parts"], "repeated": repeated})
    found = update_table(study, tmp_path / "nowhere")
    assert found[: len(rows)] == rows
    labels = {"part": "headline", "arm": "none"}
    assert [row | labels for row in found[len(rows) :]] == [row for row in rows if row["arm"] == "none"]


@pytest.mark.slow
def test_kill_9_loses_no_finished_run(whole: Path, tmp_path: Path) -> None:
    study, out = tiny(tmp_path), tmp_path / "runs"
    arguments = ["study", str(tmp_path / "tiny.yaml"), "--out", str(out), "--workers", "1"]
    code = f"from minicppo.cli import main; main({arguments!r})"
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300

    def begun() -> list[Path]:
        return [run for run in out.glob("*") if (run / "checkpoints").is_dir() and not is_done(run)]

    while len(finished := [run for run in out.glob("*") if is_done(run)]) < 3 or not begun():
        assert child.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    before = {run: (run / "summary.json").stat().st_mtime_ns for run in finished}
    run_study(study, out, 1, [], Console(quiet=True))
    assert before == {run: (run / "summary.json").stat().st_mtime_ns for run in finished}
    assert told(read_table(tmp_path / "results" / "study.parquet")) == told(
        read_table(whole / "results" / "study.parquet")
    )


@pytest.mark.slow
def test_what_cannot_start_and_what_blows_up_do_not_stop_the_rest(tmp_path: Path) -> None:
    part = {
        "title": "Bad",
        "question": "?",
        "seeds": {"count": 1},
        "settings": {
            "good": [],
            "cold": ["warmup.target=1.0", "warmup.max_steps=1", "warmup.check_every=1"],
            "hot": ["train.lr=1e30"],
        },
        "arms": {"none": {"method": "none"}},
    }
    study = tiny(tmp_path, parts={"bad": part})
    runs = distinct(grid(study, "bad", {}))
    by_setting = {cell.setting: cell.run for cell in grid(study, "bad", {})}
    seen: dict[str, int] = {}
    outcome = work_through(runs, tmp_path / "runs", 1, lambda run, iteration, *_: seen.update({run: iteration}))
    assert list(outcome.failed) == [by_setting["cold"]]
    assert "raise warmup.max_steps" in outcome.failed[by_setting["cold"]]
    assert (tmp_path / "runs" / by_setting["hot"] / DIVERGED).is_file()
    assert {run: n for run, n in seen.items() if run != WARMUP} == {by_setting["good"]: 4, by_setting["hot"]: 4}
    rows = update_table(study, tmp_path / "runs")
    status = {row["setting"]: row["status"] for row in rows}
    assert status == {"good": "finished", "hot": "diverged"}
    assert [row["accuracy"] for row in rows if row["setting"] == "hot"][-1] == 0.0


def test_after_a_failure_what_runs_is_heard_out_and_nothing_starts() -> None:
    events: SimpleQueue[tuple[str, int]] = SimpleQueue()
    heard = []

    def fail() -> None:
        raise OSError("No space left on device")

    def work(name: str) -> None:
        time.sleep(1)
        events.put((name, 1))

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(fail), *(pool.submit(work, name) for name in ("first", "second", "third"))]
        with pytest.raises(OSError, match="No space left"):
            follow(jobs, events, lambda run, iteration: heard.append((run, iteration)))
        assert [job.cancelled() for job in jobs] == [False, False, False, True]
    assert sorted(heard) == [("first", 1), ("second", 1)]


def test_what_needs_tuning_waits_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finish that first"):
        run_study(tiny(tmp_path), tmp_path / "runs", 1, ["headline"], Console(quiet=True))


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(tmp_path)
    for arguments, status, says in [
        (["--dry-run"], 0, "4 + 2"),
        (["--report-only"], 2, "run the study first"),
        (["--only", "headlin"], 2, "did you mean 'headline'"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(["study", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs"), *arguments])
        assert end.value.code == status
        assert says in "".join(capsys.readouterr())
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_gpu_study_runs_small_on_a_cpu(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "configs" / "study-gpu.yaml").read_text())
    settings |= {"results": str(tmp_path / "results"), "settings": [*settings["settings"], *SMALL]}
    for part in settings["parts"].values():
        part["seeds"] |= {"count": 1}
    path = tmp_path / "gpu.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    study = load_study(path)
    assert run_study(study, tmp_path / "runs", 1, ["tune", "headline"], Console(quiet=True)) == {}
    assert write_report(study, "python -m experiments study configs/study-gpu.yaml")
