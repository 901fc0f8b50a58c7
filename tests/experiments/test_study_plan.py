"""A study's file: what it stands for, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.study.plan import grid, load_study, selected, variants
from minicppo.rl.config import ConfigError
from tests.experiments.fake_study import study_at

ROOT = Path(__file__).resolve().parents[2]
CPPO = {"method": "cppo-exact"}
PART: dict[str, Any] = {"title": "T", "question": "Q", "seeds": {"count": 2}, "arms": {"CPPO": CPPO}}
CANDIDATES = {"CPPO": {**CPPO, "candidates": [{"delta": 0.1}, {"delta": 0.15}]}}
TUNED = {"CPPO": {**CPPO, "tuned": "tune"}}
TUNE: dict[str, Any] = {**PART, "seeds": {"first": 9, "count": 1}, "arms": CANDIDATES}


def test_equal_settings_are_one_run(tmp_path):
    told = {**PART, "arms": {"told": {**CPPO, "params": {"delta": 0.15}}}}
    study = study_at(tmp_path, parts={"tune": TUNE, "plain": PART, "told": told, "tuned": {**PART, "arms": TUNED}})
    runs = [[cell.run for cell in grid(study, name, {"tune": {"cppo-exact": {"delta": 0.15}}})] for name in study.parts]
    assert runs[1] == runs[2] == runs[3]
    assert len(set(runs[1])) == 2
    assert not set(runs[0]) & set(runs[1])
    other = grid(study, "tuned", {"tune": {"cppo-exact": {"delta": 0.1}}})
    assert not {cell.run for cell in other} & set(runs[1])
    assert grid(study, "tuned", {}) == [], "arms wait for their tuning"
    again = {**PART, "arms": {"CPPO": {**CPPO, "again": True}}}
    apart = grid(study_at(tmp_path, parts={"plain": PART, "again": again}), "again", {})
    assert [cell.run for cell in apart] == [f"{run}-again" for run in runs[1]], "its own runs of equal settings"
    assert [label for label, _, _ in variants(study, "tune", {})] == ["CPPO delta=0.1", "CPPO delta=0.15"]


def test_settings_reach_the_runs(tmp_path):
    part = {**PART, "settings": {"slow": ["train.lr=1e-5"], "fast": []}}
    cells = grid(study_at(tmp_path, parts={"p": part}, settings=["train.epochs=2"]), "p", {})
    assert [(cell.seed, cell.setting) for cell in cells] == [(0, "slow"), (0, "fast"), (1, "slow"), (1, "fast")]
    assert [cell.config.train.lr for cell in cells[:2]] == [1e-5, 5e-4]
    assert {cell.config.train.epochs for cell in cells} == {2}
    assert [cell.config.seed for cell in cells] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"p": {**PART, "arms": {"x": {"method": "cpo"}}}}, "did you mean 'cppo'"),
        ({"p": {**PART, "arms": {"x": {"method": "grpo", "params": {"delta": 1}}}}}, "delta"),
        ({"p": {**PART, "compare": {"CPO": []}}}, "did you mean 'CPPO'"),
        ({"p": {**PART, "seed": 1}}, "parts.p.seed"),
        ({"p": {**PART, "seeds": {"count": 0}}}, "parts.p.seeds.count"),
        ({"p": {**TUNE, "arms": {**CANDIDATES, "DPPO": {"method": "dppo", "candidates": [{}]}}}}, "equally many"),
        ({"p": {**TUNE, "settings": {"a": [], "b": []}}}, "in one setting"),
        ({"p": {**TUNE, "arms": {**CANDIDATES, "again": CANDIDATES["CPPO"]}}}, "tuned once"),
        ({"tune": TUNE, "p": {**PART, "arms": {"x": {**CPPO, "tuned": "tun"}}}}, "did you mean 'tune'"),
        ({"tune": TUNE, "p": {**PART, "arms": {"x": {"method": "grpo", "tuned": "tune"}}}}, "does not tune 'grpo'"),
        ({"tune": {**TUNE, "seeds": {"count": 1}}, "p": {**PART, "arms": TUNED}}, "shares seeds"),
        ({"p": {**PART, "arms": {"x": {"method": "grpo", "params": {"clip_low": 0.1}, "tuned": "t"}}}}, "give one of"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(tmp_path, parts, says):
    with pytest.raises(ConfigError, match=says):
        study_at(tmp_path, parts=parts)


def test_a_setting_that_cannot_run_is_refused(tmp_path):
    study = study_at(tmp_path, parts={"p": {**PART, "settings": {"a": ["train.lrr=1"]}}})
    with pytest.raises(ConfigError, match=r"did you mean 'train\.lr'"):
        grid(study, "p", {})
    with pytest.raises(ConfigError, match="did you mean 'p'"):
        selected(study, ["pp"])
    with pytest.raises(ConfigError, match="there is no file"):
        load_study(tmp_path / "other.yaml")
    (tmp_path / "notes.md").write_text("# Notes\n\na: b: c\n")
    with pytest.raises(ConfigError, match=r"notes.md is not valid YAML: line 3: [^\n]*$"):
        load_study(tmp_path / "notes.md")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param("study", 1284, marks=pytest.mark.slow),
        *[("study-gpu", 118), ("study-llm", 62), ("study-llm-gpu", 96)],
    ],
)
def test_the_committed_studies(name, count):
    study = load_study(ROOT / "configs" / f"{name}.yaml")
    arms = {part: settings.arms.values() for part, settings in study.parts.items()}
    table = ROOT / study.results / "study.parquet"
    winners = {part: {arm.method: arm.candidates[0] for arm in own if arm.candidates} for part, own in arms.items()}
    if table.is_file():
        winners = json.loads(table.with_name("summary.json").read_text())["winners"]
    runs = {cell.run for part in study.parts for cell in grid(study, part, winners)}
    assert len(runs) == count
    if table.is_file():
        known = pytest.importorskip("pyarrow.parquet").read_table(table, columns=["run"])["run"].unique().to_pylist()
        assert set(known) <= runs, "they are called as when they were run"
    if "tune" in arms:
        assert all({len(arm.candidates) for arm in own} <= {0, 4} for own in arms.values())
        assert study.parts["headline"].seeds.count >= 20
        tuned = {arm.method for own in arms.values() for arm in own if arm.tuned}
        assert tuned == {arm.method for arm in arms["tune"]}
        paper = {"grpo": {"clip_low": 0.2, "clip_high": 0.28}, "dppo-exact": {"delta": 0.15},
                 "cppo-exact": {"delta": 0.15, "delta_b": 0.02}}  # fmt: skip
        assert all(paper[arm.method] in arm.candidates for arm in arms["tune"])
