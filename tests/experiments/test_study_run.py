"""A study as it runs: resumable, repeatable, and none of its finished runs is ever lost."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

pytest.importorskip("pyarrow")

import pandas as pd
from pandas.testing import assert_frame_equal

from experiments.study.plan import StudyConfig, grid, load_study
from experiments.study.runner import DIVERGED, WARMUP, work_through
from experiments.study.study import claimed, plan_table, run_study, update_table, write_report
from experiments.study.table import read_table, write_table
from tests.experiments.fake_study import SMALL, TINY, fake_rows, study_at

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINICPPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def run(study: StudyConfig, out: Path, *only: str, again: bool = False) -> dict[str, str]:
    return run_study(study, out, 1, only, Console(quiet=True), again=again)


def table(study: StudyConfig) -> pd.DataFrame:
    """All but the seconds, which no two runs share."""
    return read_table(Path(study.results) / "study.parquet").drop(columns="seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a tiny study that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(study_at(folder), folder / "runs") == {}
    write_report(study_at(folder), "python -m experiments study study.yaml")
    return folder


@pytest.mark.slow
def test_a_study_from_start_to_page(whole):
    study, out, results = study_at(whole), whole / "runs", whole / "results"
    rows = table(study)
    cells = rows[["part", "arm", "seed"]].drop_duplicates()
    assert len(cells) == 2 + 3 * 2
    assert len(rows) == len(cells) * 5  # iterations 0 to 4
    at_first, at_last = rows[rows["iteration"] == 0], rows[rows["iteration"] == 4]
    assert at_first[["accuracy", "reward", "masked", "entropy"]].notna().all(axis=None)
    logged = [json.loads(line) for line in (out / at_first["run"][0] / "metrics.jsonl").read_text().splitlines()]
    updates = [row for row in logged if row["kind"] == "update" and row["iteration"] == 0]
    assert at_first["updates"][0] == len(updates) > 1
    assert at_first["entropy"][0] == pytest.approx(sum(row["entropy"] for row in updates) / len(updates), rel=1e-6)
    assert at_last["reward"].isna().all()
    assert at_last["accuracy"].notna().all()
    assert at_last["gain_low"].notna().mean() > 0.5  # a certificate may be refused
    summary = json.loads((results / "summary.json").read_text())
    assert summary["winners"]["tune"]["cppo-exact"]["delta"] in (0.02, 0.15)
    assert {row["arm"] for row in summary["parts"]["headline"]["rows"]} == {"none", "CPPO", "CPPO, tuned"}
    assert [machine["device"] for machine in summary["machines"]] == ["CPU"]
    page = (results / "README.md").read_text()
    for picture in (results / "figures").glob("*.png"):
        assert f"figures/{picture.name}" in page
        assert picture.with_suffix(".json").is_file()

    names = [path for path in out.iterdir() if path.is_dir()]
    kept = {"config.yaml", "metrics.jsonl", "timings.jsonl", "summary.json"}
    assert all({path.name for path in run.iterdir()} == kept for run in names), "finished runs are lean"
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.suffix in (".json", ".md", ".parquet")}
    run(study, out)
    assert before == {path: path.read_bytes() for path in before}, "and are left alone"
    counts = [str(cell) for cell in plan_table(study, out, []).columns[6].cells]
    assert counts == ["2", str(len(names) - 2)]


def test_rows_outlive_their_runs_but_not_their_settings(tmp_path):
    """And cells of equal settings share them."""
    first, again = ({**TINY["parts"]["headline"], "compare": {}, "arms": {arm: {"method": "none"}}} for arm in "ab")
    study = study_at(tmp_path, parts={"headline": first})
    write_table(pd.concat(map(fake_rows, grid(study, "headline", {}))), Path(study.results) / "study.parquet")
    before = table(study)
    update_table(study, tmp_path / "nowhere")
    assert_frame_equal(table(study), before)
    study = study_at(tmp_path, parts={"headline": first, "repeated": again})
    found = update_table(study, tmp_path / "nowhere").drop(columns="seconds")
    assert_frame_equal(found[: len(before)], before)
    assert_frame_equal(found[len(before) :].assign(part="headline", arm="a").reset_index(drop=True), before)
    changed = study_at(tmp_path, settings=[*SMALL, "train.lr=1e-3"])
    assert update_table(changed, tmp_path / "nowhere").empty


def test_what_the_table_holds_is_run_only_again(tmp_path, monkeypatch):
    study, winners = study_at(tmp_path), {"tune": {"cppo-exact": {"delta": 0.02}}}
    tune, headline = (grid(study, name, winners) for name in study.parts)
    last = headline[-1].run
    rows = pd.concat(fake_rows(cell) for cell in [*tune, *headline] if cell.run != last)
    write_table(rows, tmp_path / "results" / "study.parquet")
    begun = []
    monkeypatch.setattr("experiments.study.study.work_through", lambda runs, *_: begun.extend(runs) or {})
    run(study, tmp_path / "runs")
    assert begun == [last]
    run(study, tmp_path / "runs", "tune", again=True)
    assert begun == [last, *(cell.run for cell in tune)]


@pytest.mark.slow
def test_what_cannot_start_and_what_blows_up_do_not_stop_the_rest(tmp_path):
    settings = {
        "good": [],
        "cold": ["warmup.target=1.0", "warmup.max_steps=1", "warmup.check_every=1"],
        "hot": ["train.lr=1e30"],
    }
    part = {"title": "Bad", "question": "?", "seeds": {"count": 1}, "settings": settings}
    study = study_at(tmp_path, parts={"bad": {**part, "arms": {"none": {"method": "none"}}}})
    cells = {cell.setting: cell for cell in grid(study, "bad", {})}
    seen = {}
    runs = {cell.run: cell.config for cell in cells.values()}
    failed = work_through(runs, tmp_path / "runs", 1, lambda run, iteration, *_: seen.update({run: iteration}))
    assert list(failed) == [cells["cold"].run]
    assert "raise warmup.max_steps" in failed[cells["cold"].run]
    assert (tmp_path / "runs" / cells["hot"].run / DIVERGED).is_file()
    assert {run: n for run, n in seen.items() if run != WARMUP} == {cells["good"].run: 4, cells["hot"].run: 4}
    rows = update_table(study, tmp_path / "runs")
    assert dict(zip(rows["setting"], rows["status"], strict=True)) == {"good": "finished", "hot": "diverged"}
    hot = rows[rows["setting"] == "hot"]
    assert hot["accuracy"].iloc[-1] == 0.0
    assert hot["reward"].notna().tolist() == [True, True, True, True, False]


def test_the_command_says_what_is_missing(tmp_path, experiments):
    study_at(tmp_path)
    for arguments, status, says in [
        (["--dry-run"], 0, "4 + 2"),
        (["--report-only"], 2, "run the study first"),
        (["--only", "headlin"], 2, "did you mean 'headline'"),
        (["--only", "headline"], 2, "finish that first (--only tune)"),
    ]:
        outcome = experiments("study", "study.yaml", "--out", "runs", *arguments)
        assert outcome.status == status
        assert says in outcome.out + outcome.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".lock"]


@pytest.mark.parametrize("held", ["runs", "results"])
def test_of_two_studies_in_one_folder_the_second_is_told(held, tmp_path, experiments):
    study, other = study_at(tmp_path), {"runs": tmp_path / "other", "results": tmp_path / "elsewhere"}
    theirs = study.model_copy(update={"results": str(other["results"] if held == "runs" else study.results)})
    with claimed(theirs, tmp_path / "runs" if held == "runs" else other["runs"]):
        told = experiments("study", "study.yaml", "--out", "runs").refused()
    assert f"{held} is being written by another study: wait for it, or give this one other folders" in told
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("study.yaml", ".lock")]
    with claimed(study, tmp_path / "runs"):
        pass


@pytest.mark.slow
def test_signals_at_any_moment_lose_nothing(whole, tmp_path):
    """MINICPPO_KILLS=40 sends that many, at moments that a seed decides, to studies one after another."""
    part = {**TINY["parts"]["headline"], "arms": {"none": {"method": "none"}, "CPPO": {"method": "cppo-exact"}}}
    rng, left, lives = random.Random(12), int(os.environ.get("MINICPPO_KILLS", "2")), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while left:
        lives, folder = lives + 1, tmp_path / str(lives)
        folder.mkdir()
        study, done, status = study_at(folder, parts={"headline": part}), {}, -1
        command = ["-m", "experiments", "study", str(folder / "study.yaml"), "--out", str(folder / "runs")]
        while status != 0:
            child = subprocess.Popen(
                [sys.executable, *command, "--workers", "2"], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            sent = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
            try:
                _, said = child.communicate(timeout=rng.uniform(3, 9) if left else None)
            except subprocess.TimeoutExpired:
                left -= 1
                child.send_signal(sent)
                _, said = child.communicate()
                assert child.returncode in (-sent, 130, 0)
            assert "Traceback" not in said, said
            status = child.returncode
            now = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/summary.json")}
            assert done.items() <= now.items(), "what was finished stays as it was"
            done = now
        assert len(done) == 4
        rows = table(study_at(whole))
        there = rows[(rows["part"] == "headline") & rows["arm"].isin(part["arms"])].reset_index(drop=True)
        order = ["seed", "arm", "iteration"]
        assert_frame_equal(*(frame.sort_values(order, ignore_index=True) for frame in (table(study), there)))
        assert (folder / "results" / "README.md").is_file()
        assert not [path for path in folder.rglob(".*") if path.name != ".lock"], "no scratch is left"


@pytest.mark.slow
def test_the_gpu_study_runs_small_on_a_cpu(tmp_path):
    settings = yaml.safe_load((ROOT / "configs" / "study-gpu.yaml").read_text())
    settings |= {"results": str(tmp_path / "results"), "settings": [*settings["settings"], *SMALL]}
    settings["parts"] = {name: settings["parts"][name] for name in ("tune", "headline", "tuned")}
    for part in settings["parts"].values():
        part["seeds"] |= {"count": 1}
    for arm in settings["parts"]["tune"]["arms"].values():
        arm["candidates"] = arm["candidates"][:1]
    for name, arm in (("headline", "none"), ("tuned", "CPPO")):
        settings["parts"][name] |= {"arms": {arm: settings["parts"][name]["arms"][arm]}, "compare": {}}
    path = tmp_path / "gpu.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    study = load_study(path)
    assert run(study, tmp_path / "runs") == {}
    assert write_report(study, "python -m experiments study configs/study-gpu.yaml")
