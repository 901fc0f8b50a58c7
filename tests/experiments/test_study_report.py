"""Tables, figures and page of a study, from made-up runs; and the committed ones, from the committed table."""

from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow")

import pandas as pd

from experiments.study.figures import digest, draw
from experiments.study.page import BLOCK, _best, _masked, filled, in_short, page, short_p, study_table
from experiments.study.plan import Seeds, StudyConfig, grid, load_study
from experiments.study.plots import lines_plot, plots, profile_plot, scores_plot
from experiments.study.stats import Interval, holm, permutation_p
from experiments.study.study import plan_table, write_report
from experiments.study.summary import POOLED, TOLD_NOTHING, choose, leaning, rounded, runs_of, summarise, verdict
from experiments.study.table import collect, read_table, write_table
from tests.experiments.fake_study import TINY, fake_rows, study_at

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = load_study(ROOT / "configs" / "study.yaml")
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
    study = study_at(tmp_path_factory.mktemp("study"), parts=PARTS)
    rows = pd.concat(
        fake_rows(cell, level=0.9 if cell.config.method.params else 0.8) for cell in grid(study, "tune", {})
    )
    winners = choose(study, rows)
    others = [fake_rows(cell) for name in ("headline", "pressure") for cell in grid(study, name, winners)]
    results = Path(study.results)
    write_table(pd.concat([rows, *others]), results / "study.parquet")
    machine = dict.fromkeys(("processor", "device", "torch", "transformers", "python"), "X")
    (results / "machines.json").write_text(json.dumps([machine, {**machine, "kernels": "AVX2"}]))
    return study


@pytest.fixture
def rows(study: StudyConfig) -> pd.DataFrame:
    return read_table(Path(study.results) / "study.parquet")


def finals(study: StudyConfig, rows: pd.DataFrame, part: str) -> dict[tuple[str, str], np.ndarray]:
    """The final accuracies of the runs by setting and arm."""
    return {key: own.to_numpy() for key, own in runs_of(study, rows, part).groupby(["setting", "arm"])["final"]}


def test_tuning_takes_the_best_candidate(study: StudyConfig, rows: pd.DataFrame) -> None:
    assert choose(study, rows) == {"tune": {"cppo-exact": {"delta": 0.02}}}
    assert choose(study, rows[rows["run"] != rows["run"][0]]) == {}, "one candidate is missing: nothing is chosen"


def test_scores_are_read_off_the_curve(study: StudyConfig, rows: pd.DataFrame) -> None:
    own = rows[rows["run"] == rows["run"][0]]
    rewards = own["reward"].dropna().tolist()
    (result,) = runs_of(study, own, "tune").itertuples()
    assert result.final == own["accuracy"].iloc[-1]
    assert result.worst == pytest.approx(min(rewards[len(rewards) // 2 :]))
    trapezia = [(a + b) / 2 for a, b in zip(rewards, rewards[1:], strict=False)]
    assert result.area == pytest.approx(sum(trapezia) / len(trapezia))
    assert not result.collapsed


def test_pooled_settings_are_strata(study: StudyConfig, rows: pd.DataFrame) -> None:
    part, own = summarise(study, rows)["parts"]["pressure"], finals(study, rows, "pressure")
    pooled = [row for row in part["rows"] if row["setting"] == POOLED]
    assert [(row["arm"], row["runs"]) for row in pooled] == [("none", 6), ("CPPO", 6)]
    assert [pair["setting"] for pair in part["pairs"]] == ["one", "two", POOLED]
    differences = [own[setting, "CPPO"] - own[setting, "none"] for setting in ("one", "two")]
    assert part["pairs"][-1]["final_difference"]["value"] == pytest.approx(np.mean(differences))
    for pair in part["pairs"][:2]:  # corrected within the setting, of one comparison
        x, y = own[pair["setting"], "CPPO"], own[pair["setting"], "none"]
        assert pair["p"] == holm([permutation_p([x], [y])])[0] >= 0.1


def test_pairs_use_the_seeds_that_both_have(study: StudyConfig, rows: pd.DataFrame) -> None:
    kept = rows[~((rows["part"] == "headline") & (rows["arm"] == "none") & (rows["seed"] == 1))]
    (pair,) = summarise(study, kept)["parts"]["headline"]["pairs"]
    own = finals(study, kept, "headline")
    assert pair["final_difference"]["value"] == pytest.approx(own["", "CPPO"][0] - own["", "none"][0])


def test_the_same_table_is_the_same_bytes(rows: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_table(rows, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    pd.testing.assert_frame_equal(read_table(tmp_path / "one"), rows)
    assert collect([], tmp_path, rows).empty


def test_the_report_and_the_readme_table(study: StudyConfig) -> None:
    files = write_report(study, "python -m experiments study x.yaml")
    assert all(file.stat().st_size for file in files)
    summary, text = files[1].read_bytes(), files[0].read_text()
    files[1].unlink()
    for part in PARTS.values():
        assert f"## {part['title']}" in text
    assert "Still to be run" not in text
    assert "on X (X), torch X, transformers X, Python X; and on X (X, AVX2 kernels), torch X" in text
    by_hand = text.replace("## Pressure", "## In short\n\nPressure does it.\n\n## Under pressure")
    stale = BLOCK.sub(r"\1old\n\3", by_hand)
    files[0].write_text(stale)
    write_report(study, "python -m experiments study x.yaml")
    assert files[0].read_text() == by_hand, "blocks are written anew, and what stands round them stays"
    assert files[1].read_bytes() == summary, "it comes from the table alone"
    said, table, note = study_table(Path(study.results)).split("\n\n")
    assert said == "Pressure does it."
    assert "| CPPO, tuned | 2 |" in table
    assert "16 runs" in note, "20 cells, of which four share a run with another part"
    plan = {column.header: map(int, column.cells) for column in plan_table(study, Path("none"), []).columns[4:6]}
    assert {head: sum(counts) for head, counts in plan.items()} == {"runs": 16, "shared": 4}
    assert "python -m experiments study" in study_table(Path(study.results) / "nowhere")


def test_without_pyarrow_it_says_what_to_type_in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt -e '\.\[study\]'"):
        runpy.run_path(str(ROOT / "experiments" / "study" / "table.py"))


def test_figures_say_what_they_show(study: StudyConfig, rows: pd.DataFrame) -> None:
    drawn = plots(study, rows, summarise(study, rows))
    assert {plot["kind"] for plot in drawn.values()} == {"scores", "lines", "profile", "improvement"}
    for name, plot in drawn.items():
        figure = draw(plot)
        assert all(ax.get_xlabel() for ax in figure.axes[-1:]), name
        named_rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert figure.axes[0].get_ylabel() or "CPPO" in " ".join(named_rows), name
        assert figure.get_suptitle().startswith(plot["title"])
    own = finals(study, rows, "headline")
    for row in drawn["headline-scores"]["rows"]:
        assert row["each"]["final"] == rounded(own["", row["arm"]]), "ticks are the runs"


@pytest.mark.parametrize(
    ("chance", "p", "difference", "paired_p", "said"),
    [
        ((0.8, 0.6, 0.9), 0.01, 0.1, 0.01, "CPPO better"),
        ((0.2, 0.1, 0.4), 0.01, -0.1, 0.01, "DPPO better"),
        ((1.0, 1.0, 1.0), 0.1, 0.1, 0.25, TOLD_NOTHING),  # three clear wins: the interval is a point
        ((0.6, 0.45, 0.7), 0.01, 0.1, 0.06, TOLD_NOTHING),
        ((0.6, 0.45, 0.7), 0.01, 0.1, 0.01, f"{TOLD_NOTHING}, leaning to CPPO"),
        ((0.4, 0.3, 0.6), 0.2, -0.1, 0.01, f"{TOLD_NOTHING}, leaning to DPPO"),
    ],
)
def test_a_verdict_needs_interval_and_test(
    chance: tuple[float, float, float], p: float, difference: float, paired_p: float, said: str
) -> None:
    pair = {"first": "CPPO", "second": "DPPO", "final": asdict(Interval(*chance)), "p": p, "paired_p": paired_p}
    pair["final_difference"] = asdict(Interval(difference, difference, difference))
    assert verdict(pair) + leaning(pair) == said


def test_ties_and_gates_are_told() -> None:
    row = {"masked": 0.0, "gated": 0.0966, "method": "grpo", "final": {"value": 0.8}, "arm": "one"}
    assert _masked(row) == "9.66 gated"
    assert _masked(row | {"gated": 0.0, "masked": 0.01}) == "1.00"
    lower = row | {"arm": "three", "final": {"value": 0.7}}
    assert _best([row, row | {"arm": "two"}, lower], "grpo", "final") == ["one", "two"]


def test_what_is_missing_is_said(study: StudyConfig, rows: pd.DataFrame) -> None:
    assert summarise(study, rows)["missing"] == {}
    kept = rows[(rows["part"] == "tune") & (rows["run"] != rows["run"][0])]
    summary = summarise(study, kept)
    assert summary["missing"] == {"tune": (1, 2), "headline": (6, 6), "pressure": (12, 12)}
    text = page("", summary | {"machines": []}, "command", [])
    assert "`tune` (1 of 2 runs), `headline` (6 of 6 runs)" in text
    assert "So far 1 of 2 runs." in text


def test_runs_of_seeds_that_the_study_no_longer_has_do_not_count(study: StudyConfig, rows: pd.DataFrame) -> None:
    fewer = study.parts["pressure"].model_copy(update={"seeds": Seeds(count=2)})
    summary = summarise(study.model_copy(update={"parts": study.parts | {"pressure": fewer}}), rows)
    assert {row["runs"] for row in summary["parts"]["pressure"]["rows"]} == {2, 4}
    assert summary["missing"] == {}


def test_runs_that_stand_in_two_places_are_counted_once(tmp_path: Path) -> None:
    """Where tuning chooses the default, both arms have the same runs; a part of borrowed runs alone has not begun."""
    default = {"method": "cppo-exact", "params": {"delta": 0.15}}
    again = {"none": {"method": "none"}, "CPPO": {"method": "cppo-exact"}, "CPPO, again": default}
    headline = {**PARTS["headline"], "arms": again}
    later = {**headline, "seeds": {"count": 3}, "arms": {"CPPO": {"method": "cppo-exact"}}, "compare": {}}
    twice = study_at(tmp_path, parts={"headline": headline, "later": later})
    cells = [*grid(twice, "headline", {}), *grid(twice, "later", {})]
    there = {cell.run for cell in cells if cell.part == "headline"}
    rows = pd.concat(fake_rows(cell, level=0.05) for cell in cells if cell.run in there)
    summary = summarise(twice, rows)
    assert list(summary["parts"]) == ["headline"]
    assert summary["missing"]["later"] == (1, 3)
    assert summary["runs"] == 4
    own = runs_of(twice, rows, "headline")
    for plot in (lines_plot("", own, rows, {"reward": "reward"}), profile_plot("", own)):
        (panel,) = plot["panels"]
        assert [(line["arm"], line["same"]) for line in panel["lines"]] == [("none", []), ("CPPO", ["CPPO, again"])]
        told = [text.get_text() for text in draw(plot).legends[0].get_texts()]
        assert told == ["none", "CPPO = CPPO, again"], "a line that lies under another is not listed beside it"
    twins = {row["arm"]: row["same_runs_as"] for row in summary["parts"]["headline"]["rows"]}
    assert twins == {"none": "", "CPPO": "", "CPPO, again": "CPPO"}


def fake_part(name: str, cells: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Made-up rows of a part of the committed study, and the scores of its runs."""
    rows = pd.concat(map(fake_rows, grid(COMMITTED, name, {})[:cells]))
    return rows[rows["part"] == name], runs_of(COMMITTED, rows, name)


def test_many_arms_get_a_panel_a_family() -> None:
    rows, runs = fake_part("ablations", 16)
    drawn = lines_plot("", runs, rows, {"reward": "reward"}, "CPPO")
    arms = [arm for arm in COMMITTED.parts["ablations"].arms if arm != "CPPO"]
    assert [panel["name"] for panel in drawn["panels"]] == arms
    assert all([line["arm"] for line in panel["lines"]] == ["CPPO", panel["name"]] for panel in drawn["panels"])
    rows, runs = fake_part("divergence", 12)
    drawn = lines_plot("", runs, rows, {"reward": "reward"}, "")
    assert {panel["name"]: len(panel["lines"]) for panel in drawn["panels"]} == {"DPPO": 3, "CPPO": 3}


def test_arms_of_one_look_are_told_apart() -> None:
    """The reference, or what tuning chose, is drawn full; the others are named by their panels, once in the legend."""
    reference = "delta_b 0.02, w_min 0.8"
    rows, runs = fake_part("sensitivity")
    part = summarise(COMMITTED, rows)["parts"]["sensitivity"]
    assert [row["arm"] for row in scores_plot(part, runs, set(), reference)["rows"] if row["full"]] == [reference]
    chosen = scores_plot(part, runs, {"w_min 1"}, reference)
    assert [row["arm"] for row in chosen["rows"] if row["full"]] == ["w_min 1"]
    markers = [line.get_fillstyle() for line in draw(chosen).axes[0].lines if line.get_marker() == "o"]
    assert markers == ["none"] * 7 + ["full"]
    legend = draw(lines_plot("", runs, rows, {"reward": "reward"}, reference)).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [reference, "as the panel says"]


@pytest.mark.parametrize("config", ["study", "study-gpu", "study-llm", "study-llm-gpu"])
def test_committed_results_are_those_of_the_committed_table(config: str) -> None:
    committed = load_study(ROOT / "configs" / f"{config}.yaml")
    folder = ROOT / committed.results
    if not (folder / "study.parquet").is_file():
        assert not list(folder.glob("figures/*.png")), "figures without the table that they are drawn from"
        return
    known = read_table(folder / "study.parquet")
    summary = summarise(committed, known)
    stored = json.loads((folder / "summary.json").read_text())
    machines = stored.pop("machines")
    assert stored == json.loads(json.dumps(rounded(summary)))
    drawn = json.loads(json.dumps(plots(committed, known, summary)))
    text = (folder / "README.md").read_text(encoding="utf-8")
    command = f"python -m experiments study configs/{config}.yaml"
    assert text == page(text, stored | {"machines": machines}, command, drawn)
    assert {path.stem for path in (folder / "figures").glob("*.png")} == set(drawn)
    for name, plot in drawn.items():
        data = (folder / "figures" / f"{name}.json").read_bytes()
        assert json.loads(data) == plot, name
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.info["Source"] == digest(data), f"{name}.png was not drawn from the data beside it"


def test_what_is_written_by_hand_is_what_the_numbers_say() -> None:
    """Each phrase with numbers, or with who is better, is there; without these phrases no digit is left."""
    parts = json.loads((ROOT / "results" / "summary.json").read_text())["parts"]
    headline, again, scaled = (parts[name] for name in ("headline", "replication", "horizon-scaled"))

    def fallen(rows: list[dict[str, Any]]) -> str:
        hits = sum(round(row["collapsed"]["value"] * row["runs"]) for row in rows)
        return f"{hits} of {sum(row['runs'] for row in rows)}"

    def interval(row: dict[str, Any], name: str = "final") -> str:
        return Interval(**row[name]).text()

    def duel(part: dict[str, Any], first: str, second: str) -> str:
        rows = {row["arm"]: row for row in part["rows"]}
        (pair,) = (pair for pair in part["pairs"] if (pair["first"], pair["second"]) == (first, second))
        sides = f"{first} {interval(rows[first])} against {second} {interval(rows[second])}"
        difference = interval(pair, "final_difference")
        return f"{sides}: difference {difference}, P(better) {interval(pair)}, p = {short_p(pair['p'])}{leaning(pair)}."

    bare, *masked = [row for row in headline["rows"] if not row["same_runs_as"]]
    phrases = [
        f"in {headline['iterations']} iterations, {fallen([bare])} runs without one collapse, ",
        f"with a mask {fallen(masked)}.",
        duel(headline, "CPPO, tuned", "DPPO, tuned"),
        duel(headline, "CPPO, paper", "DPPO, paper"),
        f"on {again['rows'][0]['runs']} other seeds",
        duel(again, "CPPO, tuned", "DPPO, tuned"),
        "; ".join(f"{row['arm']} {interval(row)}, {fallen([row])} collapse" for row in scaled["rows"]),
    ]
    elsewhere = []
    for name, part in parts.items():
        masked = [row for row in part["rows"] if (row["masked"] or row["gated"]) and row["setting"] != POOLED]
        if name not in ("headline", "replication", "horizon-scaled") and not fallen(masked).startswith("0 "):
            elsewhere.append(f"{part['title']}, {fallen(masked)}")
    phrases.append(f"Some do: {'; '.join(elsewhere)}.")
    for pair in headline["pairs"]:
        one, other = pair["first"], pair["second"]
        if verdict(pair) != TOLD_NOTHING:
            winner = verdict(pair).removesuffix(" better")
            phrases.append(f"{winner} does better than {other if winner == one else one}")
        elif not (one.startswith("CPPO") and other.startswith("DPPO")):
            phrases.append(f"{one} and {other}{leaning(pair)}")
        for score in ("area", "worst") if verdict(pair) == TOLD_NOTHING else ():
            chance = Interval(**pair[score])
            if not chance.low <= 0.5 <= chance.high:
                ahead, behind = (one, other) if chance.low > 0.5 else (other, one)
                phrases.append(f"{ahead} over {behind} ({chance.text()})")
    text = in_short(ROOT / "results")
    for phrase in phrases:
        assert phrase in text, phrase
    for phrase in phrases:
        text = text.replace(phrase, "")
    assert not re.search(r"\d", text)
    assert verdict(again["pairs"][0]) == "CPPO, tuned better", "Yes, here it does."
    everything = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    around = filled(everything, lambda _: "").replace(in_short(ROOT / "results"), "")
    assert not re.search(r"\d", around), "numbers stand in blocks, or are checked above"
