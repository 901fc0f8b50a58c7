"""Tables, figures and page of a study, from made-up runs; and the committed ones, from the committed table."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("pyarrow")

from experiments.study.claims import (
    arm_by_arm,
    claims,
    collapse,
    collapse_elsewhere,
    other_scores,
    others,
    rivals,
    short_p,
    verdict,
)
from experiments.study.figures import digest, draw
from experiments.study.page import PAIRED, _best, _masked, in_short, study_table
from experiments.study.plan import Seeds, StudyConfig, grid, load_study
from experiments.study.plots import lines_plot, plots, profile_plot, scores_plot
from experiments.study.stats import Interval, holm, permutation_p
from experiments.study.study import plan_table, write_report
from experiments.study.summary import POOLED, choose, groups, rounded, score, summarise
from experiments.study.table import Curve, Row, collect, curves, read_table, write_table
from tests.fake_study import fake_rows
from tests.test_study_run import TINY

ROOT = Path(__file__).resolve().parents[1]
PARTS: dict[str, Any] = {
    **TINY["parts"],
    "pressure": {
        "title": "Pressure",
        "question": "How much?",
        "seeds": {"count": 3},
        "settings": {"one": ["train.epochs=1"], "two": []},
        "compare": {"CPPO": []},
        "arms": {"none": {"method": "none"}, "CPPO": {"method": "cppo-exact"}},
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A study whose table is written and made up: with delta = 0.02 CPPO ends higher."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**TINY, "results": str(folder / "results"), "parts": PARTS}, sort_keys=False))
    study = load_study(path)
    rows: list[Row] = []
    for cell in grid(study, "tune", {}):
        rows += fake_rows(cell, level=0.9 if cell.config.method.params else 0.8)
    for name in ("headline", "pressure"):
        for cell in grid(study, name, choose(study, curves(rows))):
            rows += fake_rows(cell)
    write_table(rows, folder / "results" / "study.parquet")
    machine = dict.fromkeys(("processor", "device", "torch", "transformers", "python"), "X")
    (folder / "results" / "machines.json").write_text(json.dumps([machine, {**machine, "kernels": "AVX2"}]))
    return study


@pytest.fixture(scope="module")
def found(study: StudyConfig) -> list[Curve]:
    return curves(read_table(Path(study.results) / "study.parquet"))


def test_tuning_takes_the_best_candidate(study: StudyConfig, found: list[Curve]) -> None:
    assert choose(study, found) == {"tune": {"cppo-exact": {"delta": 0.02}}}
    assert choose(study, found[1:]) == {}, "one candidate is missing: nothing is chosen"


def test_scores_are_read_off_the_curve(study: StudyConfig, found: list[Curve]) -> None:
    rows = read_table(Path(study.results) / "study.parquet")
    curve = found[0]
    own = [row for row in rows if row["run"] == curve.run]
    rewards = [row["reward"] for row in own if row["reward"] is not None]
    result = score(curve, 0.5)
    assert result.final == own[-1]["accuracy"]
    assert result.worst == pytest.approx(min(rewards[len(rewards) // 2 :]))
    trapezia = [(a + b) / 2 for a, b in zip(rewards, rewards[1:], strict=False)]
    assert result.area == pytest.approx(sum(trapezia) / len(trapezia))
    assert not result.collapsed


def test_pooled_settings_are_strata(study: StudyConfig, found: list[Curve]) -> None:
    summary = summarise(study, found)
    part = summary["parts"]["pressure"]
    pooled = [row for row in part["rows"] if row["setting"] == POOLED]
    assert [(row["arm"], row["runs"]) for row in pooled] == [("none", 6), ("CPPO", 6)]
    assert [pair["setting"] for pair in part["pairs"]] == ["one", "two", POOLED]
    differences = []
    for setting in ("one", "two"):
        own = {g.arm: g.of("final") for g in groups(study, found, "pressure") if g.setting == setting}
        differences += list(own["CPPO"] - own["none"])
    assert part["pairs"][-1]["final_difference"]["value"] == pytest.approx(np.mean(differences))


def test_pairs_use_the_seeds_that_both_have(study: StudyConfig, found: list[Curve]) -> None:
    kept = [c for c in found if not (c.key[0] == "headline" and c.key[2] == "none" and c.key[3] == 1)]
    (pair,) = summarise(study, kept)["parts"]["headline"]["pairs"]
    own = {g.arm: g.of("final") for g in groups(study, kept, "headline")}
    assert pair["final_difference"]["value"] == pytest.approx(own["CPPO"][0] - own["none"][0])


def test_the_same_table_is_the_same_bytes(study: StudyConfig, tmp_path: Path) -> None:
    rows = read_table(Path(study.results) / "study.parquet")
    for name in ("one", "two"):
        write_table(rows, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_table(tmp_path / "one") == rows
    assert collect([], tmp_path, rows) == []


def test_the_report_and_the_readme_table(study: StudyConfig) -> None:
    files = write_report(study, "python -m experiments study x.yaml")
    assert all(file.stat().st_size for file in files)
    page = (Path(study.results) / "README.md").read_text()
    for title in ("Thresholds", "The comparison", "Pressure"):
        assert f"## {title}" in page
    assert "Still to be run" not in page
    assert "on X (X), torch X, transformers X, Python X; and on X (X, AVX2 kernels), torch X" in page
    text = study_table(Path(study.results))
    said, table, note = text.split("\n\n")
    assert "| CPPO, tuned | 2 |" in table
    assert said in page
    assert "16 runs" in note, "20 cells, of which four share a run with another part"
    assert PAIRED in note
    assert PAIRED in page
    plan = {column.header: map(int, column.cells) for column in plan_table(study, Path("none"), []).columns[4:6]}
    assert {head: sum(counts) for head, counts in plan.items()} == {"runs": 16, "shared": 4}
    assert "python -m experiments study" in study_table(Path(study.results) / "nowhere")


def test_without_pyarrow_it_says_what_to_type_in_the_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt -e '\.\[study\]'"):
        read_table(tmp_path / "x.parquet")


def test_axes_say_what_they_show(study: StudyConfig, found: list[Curve]) -> None:
    drawn = plots(study, found, summarise(study, found))
    assert {plot["kind"] for plot in drawn.values()} == {"scores", "lines", "profile", "improvement"}
    for name, plot in drawn.items():
        figure = draw(plot)
        assert all(ax.get_xlabel() for ax in figure.axes[-1:]), name
        named_rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert figure.axes[0].get_ylabel() or "CPPO" in " ".join(named_rows), name
        assert figure.get_suptitle().startswith(plot["title"])


def test_ticks_are_the_runs(study: StudyConfig, found: list[Curve]) -> None:
    own = groups(study, found, "headline")
    rows = plots(study, found, summarise(study, found))["headline-scores"]["rows"]
    for row, group in zip(rows, own, strict=True):
        assert row["each"]["final"] == rounded(group.of("final"))


def made_up_part(**changes: tuple[float, float, float]) -> dict[str, Any]:
    """A part of no mask, DPPO and CPPO with three comparisons; `changes` gives the last P(better) and its ends."""
    arms = {"none": ("none", 1.0), "DPPO": ("dppo-exact", 0.1), "CPPO": ("cppo-exact", 0.0)}
    interval = {"value": 0.9, "low": 0.8, "high": 0.95}
    rows = [
        {"setting": "", "arm": arm, "method": method, "same_runs_as": "", "runs": 20, "final": interval,
         "collapsed": {"value": share}, "masked": 0.0 if method == "none" else 0.01, "gated": 0.0}
        for arm, (method, share) in arms.items()
    ]
    won = {"value": 1.0, "low": 1.0, "high": 1.0}
    chance = dict(zip(("value", "low", "high"), changes.get("chance", (0.5, 0.3, 0.7)), strict=True))
    pairs = [("DPPO", "none", won), ("CPPO", "none", won), ("CPPO", "DPPO", chance)]
    return {
        "title": "Made up",
        "preset": "stale",
        "iterations": 20,
        "rows": rows,
        "pairs": [
            {"setting": "", "first": a, "second": b, "final": p, "final_difference": interval, "p": 0.0004,
             "paired_p": 0.01}
            for a, b, p in pairs
        ],
    }


@pytest.mark.parametrize(
    ("chance", "answer"),
    [
        ((0.5, 0.3, 0.7), "Not settled. CPPO .90 [.80, .95] against DPPO .90"),
        ((0.8, 0.6, 0.9), "Yes, here."),
        ((0.2, 0.1, 0.4), "No, the other way round."),
    ],
)
def test_the_answer_follows_the_numbers(chance: tuple[float, float, float], answer: str) -> None:
    part = made_up_part(chance=chance)
    assert answer in rivals(part)
    assert "P(better)" in rivals(part)
    assert len(claims(part)) == 3


def test_a_replication_answers_for_itself() -> None:
    again = made_up_part(chance=(0.5, 0.3, 0.7))
    told = claims(made_up_part(chance=(0.8, 0.6, 0.9)), again)
    assert [sentence.partition("** ")[2].partition(".")[0] for sentence in told[1:3]] == ["Yes, here", "Not settled"]
    assert told[2].startswith(f"**And on {again['rows'][0]['runs']} other seeds, asked alone?** ")


def test_collapse_is_told_of_every_part_once() -> None:
    """The part of scaled thresholds, which borrows runs of the long horizon, tells of its own."""
    parts = {name: made_up_part() | {"title": name} for name in ("headline", "replication", "long", "horizon-scaled")}
    part = parts["headline"]
    part |= {"rows": part["rows"][1:], "pairs": part["pairs"][2:]}  # with a mask all: the first sentence is left out
    told = in_short({"parts": parts, "missing": {}}).splitlines()
    assert told[0] == "- **Do runs with a mask or a gate collapse elsewhere?** Yes: long, 2 of 40."
    assert [line[:20] for line in told[1:]] == ["- **Does CPPO beat D", "- **And on 20 other ", "- **horizon-scaled.*"]
    missing = {"replication": (1, 40), "horizon-scaled": (1, 15)}
    assert in_short({"parts": parts, "missing": missing}).splitlines() == told[:2], "half a part tells nothing"


def test_a_comparison_that_settles_nothing_contradicts_none() -> None:
    part = made_up_part()
    settled, second = part["pairs"][-1], Interval(0.2, 0.1, 0.3)
    settled["final"] = asdict(Interval(0.8, 0.7, 0.9))
    part["pairs"].append(settled | {"p": 0.2})
    assert "** Settled in part. " in rivals(part)
    part["pairs"][-1] = settled | {"final": asdict(second)}
    assert "** It depends on the thresholds. " in rivals(part)


def test_the_other_claims_follow_the_numbers() -> None:
    part = made_up_part()
    assert collapse(part).endswith(
        "Under `stale`, in 20 iterations, 20 of 20 runs without one collapse, with a mask 2 of 40 (DPPO 2 of 20; none "
        "with CPPO)."
    )
    assert arm_by_arm(part).startswith("**Made up.** none .90 [.80, .95], 20 of 20 collapse; DPPO .90 [.80, .95], 2 ")
    assert collapse_elsewhere([part]).endswith("Yes: Made up, 2 of 40.")
    part["rows"][-1] |= {"collapsed": {"value": 0.5}, "masked": 0.0}
    assert collapse_elsewhere([part]).endswith("Yes: Made up, 2 of 20."), "no token was masked in the others"
    part["rows"][-1]["gated"] = 0.1
    assert collapse_elsewhere([part]).endswith("Yes: Made up, 12 of 40.")
    for row in part["rows"][1:]:
        row["collapsed"]["value"] = 0.0
    assert collapse_elsewhere([part]) == ""
    assert others(part) == "**The others.** DPPO does better than none; CPPO does better than none."
    part["pairs"][0]["p"] = 0.06
    assert others(part).endswith("CPPO does better than none. Not told apart: DPPO and none, leaning to DPPO.")
    assert [short_p(p) for p in (0.0004, 0.034, 1.0)] == ["< .001", ".034", "1"]


def test_what_other_scores_seem_to_tell_apart_is_asked() -> None:
    part = made_up_part()
    assert other_scores(part) == ""
    part["pairs"][-1] |= {"area": asdict(Interval(0.8, 0.6, 0.9)), "worst": asdict(Interval(0.2, 0.1, 0.4))}
    told = other_scores(part)
    assert "mean reward, CPPO over DPPO (.80 [.60, .90]); lowest late reward, DPPO over CPPO (.20 [.10, .40])" in told
    assert claims(part)[-1] == told
    part["pairs"][-1]["area"] = asdict(Interval(0.6, 0.5, 0.7))
    assert "mean reward" not in other_scores(part)


def test_ties_and_gates_are_told() -> None:
    row = {"masked": 0.0, "gated": 0.0966, "method": "grpo", "final": {"value": 0.8}, "arm": "one"}
    assert _masked(row) == "9.66 gated"
    assert _masked(row | {"gated": 0.0, "masked": 0.01}) == "1.00"
    lower = row | {"arm": "three", "final": {"value": 0.7}}
    assert _best([row, row | {"arm": "two"}, lower], "grpo", "final") == ["one", "two"]


def test_a_leaning_is_said_and_not_called_settled() -> None:
    part = made_up_part()
    assert "p < .001, leaning to CPPO." in rivals(part)
    part["pairs"][-1]["final_difference"] = {"value": -0.1, "low": -0.2, "high": -0.01}
    assert "p < .001, leaning to DPPO." in rivals(part)
    part["pairs"][-1]["paired_p"] = 0.06
    assert "leaning" not in rivals(part)
    part["rows"][1]["same_runs_as"] = "DPPO, paper"
    assert "against DPPO (the runs of DPPO, paper) .90" in rivals(part)


def test_a_verdict_needs_interval_and_test() -> None:
    """Three clear wins make an interval that is a point; they are still only three."""
    pair = made_up_part(chance=(1.0, 1.0, 1.0))["pairs"][-1]
    assert verdict(pair) == "CPPO better"
    assert verdict(pair | {"p": 0.1}) == "not told apart"
    assert verdict(pair | {"final": {"value": 0.6, "low": 0.45, "high": 0.7}}) == "not told apart"


def test_comparisons_are_corrected_within_their_setting(study: StudyConfig, found: list[Curve]) -> None:
    part = summarise(study, found)["parts"]["pressure"]
    own = {(g.setting, g.arm): g.of("final") for g in groups(study, found, "pressure")}
    for pair in part["pairs"][:2]:
        x, y = (own[pair["setting"], pair[side]] for side in ("first", "second"))
        assert pair["p"] == holm([permutation_p([x], [y])])[0] >= 0.1


def test_what_is_missing_is_said(study: StudyConfig, found: list[Curve]) -> None:
    assert summarise(study, found)["missing"] == {}
    kept = [curve for curve in found if curve.key[0] == "tune"][:-1]
    assert summarise(study, kept)["missing"] == {"tune": (1, 2), "headline": (6, 6), "pressure": (12, 12)}


def test_runs_of_seeds_that_the_study_no_longer_has_do_not_count(study: StudyConfig, found: list[Curve]) -> None:
    fewer = study.parts["pressure"].model_copy(update={"seeds": Seeds(count=2)})
    less = study.model_copy(update={"parts": study.parts | {"pressure": fewer}})
    summary = summarise(less, found)
    assert {row["runs"] for row in summary["parts"]["pressure"]["rows"]} == {2, 4}
    assert summary["missing"] == {}


def test_runs_that_stand_in_two_places_are_counted_once(tmp_path: Path) -> None:
    """Where tuning chooses the default, both arms have the same runs; a part of borrowed runs alone has not begun."""
    default = {"method": "cppo-exact", "params": {"delta": 0.15}}
    again = {"none": {"method": "none"}, "CPPO": {"method": "cppo-exact"}, "CPPO, again": default}
    headline = {**PARTS["headline"], "arms": again}
    later = {**headline, "seeds": {"count": 3}, "arms": {"CPPO": {"method": "cppo-exact"}}, "compare": {}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**TINY, "parts": {"headline": headline, "later": later}}, sort_keys=False))
    twice = load_study(path)
    cells = [*grid(twice, "headline", {}), *grid(twice, "later", {})]
    there = {cell.run for cell in cells if cell.part == "headline"}
    rows = [row for cell in cells if cell.run in there for row in fake_rows(cell, level=0.05)]
    summary = summarise(twice, curves(rows))
    assert list(summary["parts"]) == ["headline"]
    assert summary["missing"]["later"] == (1, 3)
    own = groups(twice, curves(rows), "headline")
    for plot in (lines_plot("", own, {"reward": "reward"}), profile_plot("", own)):
        (panel,) = plot["panels"]
        assert [(line["arm"], line["same"]) for line in panel["lines"]] == [("none", []), ("CPPO", ["CPPO, again"])]
        told = [text.get_text() for text in draw(plot).legends[0].get_texts()]
        assert told == ["none", "CPPO = CPPO, again"], "a line that lies under another is not listed beside it"
    twins = {row["arm"]: row["same_runs_as"] for row in summary["parts"]["headline"]["rows"]}
    assert twins == {"none": "", "CPPO": "", "CPPO, again": "CPPO"}
    assert "with a mask 2 of 2" in collapse(summary["parts"]["headline"])
    assert summary["runs"] == 4


def test_many_arms_get_a_panel_a_family() -> None:
    committed = load_study(ROOT / "configs" / "study.yaml")
    part = committed.parts["ablations"]
    rows = [row for cell in grid(committed, "ablations", {})[:16] for row in fake_rows(cell)]
    drawn = lines_plot("", groups(committed, curves(rows), "ablations"), {"reward": "reward"}, "CPPO")
    assert [panel["name"] for panel in drawn["panels"]] == [arm for arm in part.arms if arm != "CPPO"]
    assert all([line["arm"] for line in panel["lines"]] == ["CPPO", panel["name"]] for panel in drawn["panels"])
    rows = [row for cell in grid(committed, "divergence", {})[:12] for row in fake_rows(cell)]
    drawn = lines_plot("", groups(committed, curves(rows), "divergence"), {"reward": "reward"}, "")
    assert {panel["name"]: len(panel["lines"]) for panel in drawn["panels"]} == {"DPPO": 3, "CPPO": 3}


def test_arms_of_one_look_are_told_apart() -> None:
    """The reference, or what tuning chose, is drawn full; the others are named by their panels, once in the legend."""
    committed = load_study(ROOT / "configs" / "study.yaml")
    reference = "delta_b 0.02, w_min 0.8"
    rows = [row for cell in grid(committed, "sensitivity", {}) for row in fake_rows(cell)]
    found = curves(rows)
    own, part = groups(committed, found, "sensitivity"), summarise(committed, found)["parts"]["sensitivity"]
    assert [row["arm"] for row in scores_plot(part, own, set(), reference)["rows"] if row["full"]] == [reference]
    chosen = scores_plot(part, own, {"w_min 1"}, reference)
    assert [row["arm"] for row in chosen["rows"] if row["full"]] == ["w_min 1"]
    markers = [line.get_fillstyle() for line in draw(chosen).axes[0].lines if line.get_marker() == "o"]
    assert markers == ["none"] * 7 + ["full"]
    legend = draw(lines_plot("", own, {"reward": "reward"}, reference)).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [reference, "as the panel says"]


@pytest.mark.parametrize("config", ["study", "study-gpu", "study-llm", "study-llm-gpu"])
def test_committed_figures_show_the_committed_results(config: str) -> None:
    committed = load_study(ROOT / "configs" / f"{config}.yaml")
    folder = ROOT / committed.results
    if not (folder / "study.parquet").is_file():
        assert not list(folder.glob("figures/*.png")), "figures without the table that they are drawn from"
        return
    known = curves(read_table(folder / "study.parquet"))
    summary = summarise(committed, known)
    stored = json.loads((folder / "summary.json").read_text())
    del stored["machines"]
    assert stored == json.loads(json.dumps(rounded(summary)))
    drawn = json.loads(json.dumps(plots(committed, known, summary)))
    assert {path.stem for path in (folder / "figures").glob("*.png")} == set(drawn)
    for name, plot in drawn.items():
        data = (folder / "figures" / f"{name}.json").read_bytes()
        assert json.loads(data) == plot, name
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.info["Source"] == digest(data), f"{name}.png was not drawn from the data beside it"
