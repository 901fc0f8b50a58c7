"""Tables, figures and page of a study, from made-up runs; and the committed ones, from the committed table."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow")

import pandas as pd

from experiments.study.figures import digest, draw, draw_all
from experiments.study.page import _masked, in_short, page, study_table
from experiments.study.plan import Seeds, StudyConfig, grid, load_study
from experiments.study.plots import plots
from experiments.study.stats import holm, permutation_p
from experiments.study.study import plan_table, write_report
from experiments.study.summary import POOLED, TOLD_NOTHING, choose, leaning, rounded, runs_of, summarise, verdict
from experiments.study.table import collect, read_table, write_table
from tests.experiments.fake_study import TINY, fake_rows, study_at

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
PRESSURE = {
    "title": "Pressure",
    "question": "How much?",
    "seeds": {"count": 3},
    "settings": {"one": ["train.epochs=1"], "two": []},
    "compare": {"CPPO": []},
    "arms": {"none": {"method": "none"}, "CPPO": {"method": "cppo-exact"}},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose table is written and made up."""
    study = study_at(tmp_path_factory.mktemp("study"), parts={**TINY["parts"], "pressure": PRESSURE})
    results, winners = Path(study.results), {"tune": {"cppo-exact": {"delta": 0.02}}}
    rows = pd.concat(fake_rows(cell) for name in study.parts for cell in grid(study, name, winners))
    write_table(rows, results / "study.parquet")
    machine = dict.fromkeys(("processor", "device", "torch", "transformers", "python"), "X")
    (results / "machines.json").write_text(json.dumps([machine, {**machine, "kernels": "AVX2"}]))
    return study


@pytest.fixture
def rows(study):
    return read_table(Path(study.results) / "study.parquet")


def only(study: StudyConfig, rows: pd.DataFrame, part: str) -> tuple[StudyConfig, pd.DataFrame]:
    """The study with one of its parts, and that part's rows."""
    return study.model_copy(update={"parts": {part: study.parts[part]}}), rows[rows["part"] == part]


def areas(study: StudyConfig, rows: pd.DataFrame, part: str) -> dict[tuple[str, str], np.ndarray]:
    """The runs' areas by setting and arm."""
    return {key: own.to_numpy() for key, own in runs_of(study, rows, part).groupby(["setting", "arm"])["area"]}


def test_the_best_candidate_is_taken_once_all_are_there(study, rows):
    assert choose(study, rows) == {"tune": {"cppo-exact": {"delta": 0.02}}}
    assert choose(study, rows[rows["run"] != rows["run"][0]]) == {}, "one candidate is missing: nothing is chosen"


def test_pooled_settings_are_strata(study, rows):
    part, own = summarise(*only(study, rows, "pressure"))["parts"]["pressure"], areas(study, rows, "pressure")
    pooled = [row for row in part["rows"] if row["setting"] == POOLED]
    assert [(row["arm"], row["runs"]) for row in pooled] == [("none", 6), ("CPPO", 6)]
    assert [pair["setting"] for pair in part["pairs"]] == ["one", "two", POOLED]
    differences = [own[setting, "CPPO"] - own[setting, "none"] for setting in ("one", "two")]
    assert part["pairs"][-1]["area_difference"]["value"] == pytest.approx(np.mean(differences))
    for pair in part["pairs"][:2]:  # corrected within the setting, of one comparison
        x, y = own[pair["setting"], "CPPO"], own[pair["setting"], "none"]
        assert pair["p"] == holm([permutation_p([x], [y])])[0] >= 0.1


def test_runs_that_began_at_different_policies_are_not_compared(study, rows):
    other = (rows["arm"] == "CPPO") & (rows["part"] == "headline") & (rows["seed"] == 1) & (rows["iteration"] == 0)
    moved = rows.assign(greedy=rows["greedy"].where(~other, rows["greedy"] + 0.1))
    with pytest.raises(ValueError, match=r"CPPO and none: the runs of seed 1 began at different policies.*again: true"):
        summarise(*only(study, moved, "headline"))


@pytest.mark.slow
def test_what_is_not_there_is_said_and_what_is_not_asked_does_not_count(study, rows):
    assert summarise(study, rows)["missing"] == {}
    kept = rows[~((rows["part"] == "headline") & (rows["arm"] == "none") & (rows["seed"] == 1))]
    (pair,) = summarise(study, kept)["parts"]["headline"]["pairs"]
    own = areas(study, kept, "headline")
    assert pair["area_difference"]["value"] == pytest.approx(own["", "CPPO"][0] - own["", "none"][0]), "seeds of both"
    summary = summarise(study, rows[(rows["part"] == "tune") & (rows["run"] != rows["run"][0])])
    assert summary["missing"] == {"tune": (1, 2), "headline": (6, 6), "pressure": (12, 12)}
    text = page(summary | {"machines": []}, "command", [])
    assert "`tune` (1 runs of 2), `headline` (6 runs of 6)" in text
    assert "So far 1 of 2 runs." in text
    fewer = study.parts["pressure"].model_copy(update={"seeds": Seeds(count=2)})
    later = study.parts["headline"].model_copy(update={"seeds": Seeds(count=3), "arms": {"x": fewer.arms["CPPO"]}})
    parts = study.parts | {"pressure": fewer, "later": later.model_copy(update={"compare": {}})}
    changed = study.model_copy(update={"parts": parts})
    borrowed = rows[(rows["part"] == "headline") & (rows["arm"] == "CPPO")].assign(part="later", arm="x")
    summary = summarise(changed, pd.concat([rows, borrowed]))
    assert {row["runs"] for row in summary["parts"]["pressure"]["rows"]} == {2, 4}
    assert "later" not in summary["parts"], "a part of borrowed runs alone has not begun"
    assert summary["missing"] == {"later": (1, 3)}


def test_the_same_table_is_the_same_bytes(rows, tmp_path):
    for name in ("one", "two"):
        write_table(rows, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    pd.testing.assert_frame_equal(read_table(tmp_path / "one"), rows)
    assert collect([], tmp_path, rows).empty


def test_only_pictures_that_were_drawn_here_are_removed(tmp_path):
    line = {"arm": "a", "method": "none", "x": [0], "value": [0], "low": [0], "high": [0]}
    panels = [{"name": "x", "setting": "", "label": "y", "over": "x", "lines": [line]}]
    draw_all({"old": {"kind": "lines", "title": "old", "what": "x", "panels": panels}}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"old.png", "old.json"}
    mine = {"mine.png", "mine.json", "photo.png", "notes.json"}
    for name in mine:
        (tmp_path / name).write_text(name)
    draw_all({}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == mine


@pytest.mark.slow
def test_the_report_and_the_readme_table(study, monkeypatch):
    command = "python -m experiments study x.yaml"
    files = write_report(study, command)
    assert all(file.stat().st_size for file in files)
    summary, text = files[1].read_bytes(), files[0].read_text()
    for title in ("Thresholds", "The comparison", "Pressure"):
        assert f"## {title}" in text
    assert "Still to be run" not in text
    assert "on X (X), torch X, transformers X, Python X; and on X (X, AVX2 kernels), torch X" in text
    for file in files[:2]:
        file.unlink()
    monkeypatch.setattr("experiments.study.study.draw_all", lambda *_: [])
    write_report(study, command)
    assert (files[0].read_text(), files[1].read_bytes()) == (text, summary), "they come from the table alone"
    *parts, table, note = study_table(Path(study.results)).split("\n\n")
    assert "\n\n".join(parts) == in_short(json.loads(summary))
    assert in_short(json.loads(summary)) in text
    said = parts[0]
    assert "Runs that end below their start: none 2 of 2, CPPO" in said
    assert "| CPPO, tuned | 2 |" in table
    assert "16 runs" in note, "20 cells, of which four share a run with another part"
    runs, shared = plan_table(study, Path("none"), []).columns[4:6]
    assert [sum(int(str(cell)) for cell in column.cells) for column in (runs, shared)] == [16, 4]
    assert "python -m experiments study" in study_table(Path(study.results) / "nowhere")


def test_without_pyarrow_it_says_what_to_type_in_the_clone(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt -e '\.\[study\]'"):
        runpy.run_path(str(ROOT / "experiments" / "study" / "table.py"))


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
def test_a_verdict_needs_interval_and_test(chance, p, difference, paired_p, said):
    area = dict(zip(("value", "low", "high"), chance, strict=True))
    pair = {"first": "CPPO", "second": "DPPO", "area": area, "p": p, "paired_p": paired_p}
    pair["area_difference"] = {"value": difference}
    assert verdict(pair) + leaning(pair) == said


def test_gates_are_told():
    rows = [{"masked": 0.01, "gated": 0.0}, {"masked": 0.0, "gated": 0.0966}, {"masked": None}]
    assert list(map(_masked, rows)) == ["1.00", "9.66 gated", "-"]


def test_figures_say_what_they_show():
    """The committed ones: axes have names, and rows or lines are named."""
    kinds = set()
    for path in RESULTS.glob("figures/headline*.json"):
        plot = json.loads(path.read_text())
        figure = draw(plot)
        kinds.add(plot["kind"])
        assert figure.get_suptitle().startswith(plot["title"])
        assert figure.axes[-1].get_xlabel(), path
        named = " ".join(label.get_text() for label in figure.axes[0].get_yticklabels())
        assert figure.axes[0].get_ylabel() or "CPPO" in named, path
    assert kinds == {"scores", "lines"}


@pytest.mark.slow
@pytest.mark.parametrize("config", ["study", "study-gpu", "study-llm", "study-llm-gpu"])
def test_committed_results_are_those_of_the_committed_table(config):
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
    text, command = (folder / "README.md").read_text(encoding="utf-8"), f"python -m experiments study configs/{config}"
    assert text == page(stored | {"machines": machines}, f"{command}.yaml", drawn)
    assert {path.stem for path in (folder / "figures").glob("*.png")} == set(drawn)
    for name, plot in drawn.items():
        data = (folder / "figures" / f"{name}.json").read_bytes()
        assert json.loads(data) == plot, name
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.info["Source"] == digest(data), f"{name}.png was not drawn from the data beside it"
