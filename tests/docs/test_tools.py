"""The tools of the pages: pictures are what the code draws, of the committed numbers; targets say what is missed."""

import json
import re
import shutil

import numpy as np
import pytest
from matplotlib.image import imread

from docs.tools import gates, targets
from docs.tools.growth import PANELS, SERIES, growth
from docs.tools.overview import DELTA, LENGTH, made_up_divergences, masks
from docs.tools.pictures import MEASURED, PICTURES, ROOT, draw_demo_llm
from minicppo.plots.results import result
from minicppo.plots.runs import load_run
from minicppo.plots.style import save
from minicppo.rules import Reason


def test_growth_is_drawn_from_the_committed_benchmark():
    measured = json.loads((MEASURED / "end_to_end.json").read_text())["rows"]
    for ax, (kind, _) in zip(growth().axes, PANELS, strict=True):
        rows = [row for row in measured if row["kind"] == kind]
        assert len(rows) >= 5
        lines = {str(line.get_label()): line for line in ax.get_lines()}
        for key, name, *_ in SERIES:
            assert lines[name].get_xdata().tolist() == [row["size"] for row in rows]
            assert lines[name].get_ydata().tolist() == [row[key] for row in rows]


def test_the_overview_shows_each_effect_once():
    """The README's picture promises an early burst, masked small moves and a late token that CPPO alone keeps."""
    D = made_up_divergences()
    uniform, cppo = masks(D)
    assert D.shape == (LENGTH,)
    kept_by_uniform, kept_by_cppo = uniform.token_mask[0].numpy(), cppo.token_mask[0].numpy()
    late = D > DELTA
    assert kept_by_uniform.tolist() == (~late).tolist()
    assert (kept_by_cppo & ~kept_by_uniform).any(), "a late token that only CPPO keeps"
    assert (~kept_by_cppo & (DELTA / 2 > D))[:20].any(), "an early small move that only CPPO masks"
    assert set(cppo.reason[0].tolist()) >= {int(Reason.INSIDE), int(Reason.PREFIX)}


def test_the_gates_are_lines_or_boxes():
    """What the page says: a rule that reads rho sees the sum of both axes, a decoupled one each of them."""
    rule, box = gates.passed(1.0, name="grpo"), gates.passed(1.0, name="icepop")
    for offset in (-40, -10, 10, 40):  # along one rho, one verdict
        along = np.diagonal(rule[::-1], offset)
        assert len(set((along[~np.isnan(along)] > 0).tolist())) <= 1
    axis, shown = np.linspace(-gates.REACH, gates.REACH, gates.STEPS), ~np.isnan(box)
    assert np.array_equal((box > 0)[shown], ((np.abs(axis) <= np.log(2)) & (axis <= np.log(1.28))[:, None])[shown])
    assert set(gates.PANELS) >= {"tis", "icepop", "seq-mask", "prime-rl", "ipo", "vespo", "opsm"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_committed_picture_is_what_the_code_draws(name, tmp_path):
    drawn, committed = imread(save(PICTURES[name](), tmp_path / "drawn.png")), imread(ROOT / name)
    assert drawn.shape == committed.shape
    assert np.mean(np.abs(drawn - committed)) < 0.02, f"run `make figures` and commit {name}"


def test_every_committed_picture_has_a_source():
    """In docs/ those of `make figures`; the others lie beside their study or are drawn by a notebook."""
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.png")} == set(PICTURES)


def test_the_demo_s_picture_shows_the_recorded_run():
    """The run kept for the picture is the one whose numbers the documentation gives."""
    run, told = load_run(MEASURED / "demo-llm"), json.loads((MEASURED / "demo-llm.json").read_text())["rows"][0]
    row = result(run)
    assert (row.before, row.after, row.masked) == (told["before"], told["after"], told["masked"])
    accuracy, reward, masked, drift = (ax.get_lines()[0] for ax in draw_demo_llm().axes)
    assert accuracy.get_ydata().tolist() == [100 * each["accuracy"] for each in run.rows("eval")]
    assert reward.get_ydata().tolist() == [each["reward"] for each in run.rows("rollout")]
    for line, key, scale in ((masked, "mask/frac", 100), (drift, "drift", 1)):
        updates = [(each["iteration"], scale * each[key]) for each in run.rows("update")]
        means = [np.mean([value for at, value in updates if at == i]) for i in range(5)]
        assert line.get_ydata().tolist() == pytest.approx(means)


def tables(text: str) -> list[dict[str, list[str]]]:
    """Each table's rows by their first cell, its two heading lines left out."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append({row[0]: row[1:] for row in rows[2:]})
    return found


def test_what_is_missed_says_why():
    cpu, gpu = tables(targets.targets())
    assert cpu.keys() > {path for path in gpu if path.startswith("mask")}
    for path, (asked, found, met, why) in [*cpu.items(), *gpu.items()]:
        assert "" not in (asked, found), path
        assert (met, bool(why)) in (("yes", False), ("no", True)), path
    for start in ("sampling, equal", "sampling, spread", "scoring", "mask, 512", "mask, 64", "rollout"):
        assert all(any(path.startswith(start) for path in table) for table in (cpu, gpu)), start
    assert any(path.startswith("memory") for path in cpu)


def test_a_gpus_results_get_their_table(tmp_path, monkeypatch):
    for file in targets.RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    path = tmp_path / f"mask{targets.ON_GPU}.json"
    measured = json.loads(path.read_text())
    for row, (ratio, copies) in zip(measured["rows"], ((60.0, 2.9), (40.0, 3.1)), strict=True):
        row |= {"ratio": ratio, "copies": copies}
    path.write_text(json.dumps(measured))
    _, found = tables(targets.targets())
    assert found["mask, 512 x 2,048, beside the loop"] == ["50 x", "60.0 x", "yes", ""]
    assert found["mask, 512 x 2,048, beside a copy"][1:] == ["2.9 copies", "yes", ""]
    assert [found[f"mask, 64 x 8,192, beside {what}"][2] for what in ("the loop", "a copy")] == ["no", "no"]
    path.unlink()
    assert len(tables(targets.targets())) == 1
    assert "On a GPU (`make bench-gpu`): not measured." in targets.targets()
