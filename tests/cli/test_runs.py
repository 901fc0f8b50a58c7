"""What a run says of itself: where it goes, what differs, and whether it learnt anything."""

import errno
from pathlib import Path
from unittest import mock

import pytest
import yaml

from minicppo.cli.options import default_folder
from minicppo.rl.config import load_config
from tests.cli.conftest import TRAINED
from tests.command_line import TINY
from tests.fake_runs import write_run


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ([], "stale-cppo-exact"),
        (["seed=1"], "stale-cppo-exact-seed-1"),
        (["method=grpo", "train.lr=3e-4"], "stale-grpo-lr-3e-4"),
        (["recipe=dr-grpo"], "stale-dr-grpo"),
        (["task.options={steps: 3}"], "stale-cppo-exact-options-_steps_3_"),
    ],
)
def test_a_folder_is_named_after_what_was_given(given, name):
    assert default_folder(load_config("stale", given), given) == Path("runs") / name


def test_no_name_of_a_folder_is_too_long():
    folders = [default_folder(load_config("stale"), [f"eval.data=[{letter * 500}]"]) for letter in "xy"]
    assert max(len(folder.name) for folder in folders) <= 120
    assert folders[0] != folders[1]


def test_another_run_in_the_folder_is_told_apart_from_the_same(minicppo, trained):
    again = minicppo(*TRAINED, trained)
    assert f"already holds a run: minicppo resume {trained}" in again.refused()
    assert again.out == "", "no progress is shown of what is refused"
    other = minicppo(*TRAINED, trained, "seed=1", "train.lr=0.001").refused()
    assert "another run (seed = 0 there, 1 here; train.lr = 0.0003 there, 0.001 here)" in other


def test_a_run_without_an_update_says_so_and_why(minicppo):
    shown = minicppo("train", "learn", *TINY, "warmup=null", "task.options.steps=9", "--run-dir", "run").done()
    assert "There is no warm-up" in shown
    assert "iteration 1 made no update. Every reward was 0: the task is too hard" in " ".join(shown.split())
    assert "No update was made: this is the policy that it started from. Every reward was 0" in shown


def test_compare_overwrites_nothing_and_keeps_tasks_apart(minicppo, monkeypatch):
    def write(runs, folder):  # figures take a third of a second each, and are looked at elsewhere
        folder.mkdir(parents=True)
        (folder / "report.md").touch()
        return [folder / f"{len(runs)}.png"]

    monkeypatch.setattr("minicppo.plots.report.write_report", write)
    runs = [str(write_run(Path(name), name)) for name in ("cppo-exact", "none", "grpo")]
    settings = yaml.safe_load(Path("grpo/config.yaml").read_text())
    Path("grpo/config.yaml").write_text(yaml.safe_dump(settings | {"task": {"name": "addition", "options": {}}}))
    shown = minicppo("compare", *runs[:2]).done()
    for words in ("31.0 ± 2.0", "from one seed, settle nothing", "method.name", "\nruns/compare/2.png"):
        assert words in shown
    assert "runs/compare-2/1.png" in minicppo("compare", runs[0]).done()
    assert "already holds something" in minicppo("compare", *runs, "--out", "runs/compare").refused()
    shown = minicppo("compare", *runs, "--out", "apart").done()
    for words in ("Task 2 of 2", "addition", "apart/task-1/2.png", "apart/task-2/1.png"):
        assert words in shown


def test_a_rehearsal_says_what_a_run_takes_and_writes_nothing(minicppo):
    shown = minicppo("train", "learn", *TINY, "seed=7", "--dry-run").done()
    assert "seed: 7" in shown
    assert "minutes and" in shown
    assert "runs/learn-cppo-exact" in shown
    assert not Path("runs").exists()
    assert "minicppo plan" in minicppo("train", "qwen3-8b-base", "--dry-run").done()


def test_resume_lists_what_is_unfinished(minicppo):
    begun = write_run(Path("runs/deep/down/begun"))
    write_run(Path("runs/ended"))
    (begun / "summary.json").unlink()
    shown = minicppo("resume").done()
    assert str(begun) in shown
    assert "runs/ended" not in shown
    assert "cannot go on" not in shown
    (begun / "config.yaml").write_text("")
    assert f"cannot go on: {begun}/config.yaml is empty" in " ".join(minicppo("resume").done().split())
    assert f"{begun}/config.yaml is empty" in minicppo("resume", str(begun)).refused()


def test_watch_shows_a_runs_curves(minicppo):
    write_run(Path("run"), final=0.9)
    shown = minicppo("watch", "run", "--once").done()
    assert "held-out accuracy" in shown
    assert "0.9" in shown
    assert "▁" in shown
    assert "nowhere holds no run" in minicppo("watch", "nowhere").refused()


def test_a_full_disk_is_one_line_with_a_way_out(minicppo, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "run/checkpoints/000002")
    monkeypatch.setattr("minicppo.rl.trainer.train", mock.Mock(side_effect=full))
    said = minicppo("train", "learn").refused()
    assert "No space left on device: 'run/checkpoints/000002': make room; what was saved is whole" in said
