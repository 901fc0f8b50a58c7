"""Every committed picture is what the code draws, and shows the committed numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from docs.tools.growth import PANELS, SERIES, growth
from docs.tools.overview import DELTA, LENGTH, made_up_divergences, masks
from docs.tools.pictures import PICTURES, ROOT, draw_demo_llm
from minicppo.plots.results import result
from minicppo.plots.runs import load_run
from minicppo.plots.style import save
from minicppo.rules import Reason


def test_growth_is_drawn_from_the_committed_benchmark() -> None:
    result = json.loads((ROOT / "experiments" / "benchmarks" / "results" / "end_to_end.json").read_text())
    left, right = growth(result).axes
    for ax, (kind, _) in zip((left, right), PANELS, strict=True):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        assert len(rows) >= 5
        lines = {str(line.get_label()): line for line in ax.get_lines()}
        for key, name, *_ in SERIES:
            assert lines[name].get_xdata().tolist() == [row["size"] for row in rows]
            assert lines[name].get_ydata().tolist() == [row[key] for row in rows]


def test_the_overview_shows_each_effect_once() -> None:
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


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_committed_picture_is_what_the_code_draws(name: str, tmp_path: Path) -> None:
    drawn, committed = imread(save(PICTURES[name](), tmp_path / "drawn.png")), imread(ROOT / name)
    assert drawn.shape == committed.shape
    assert np.mean(np.abs(drawn - committed)) < 0.02, f"run `make figures` and commit {name}"


def test_every_committed_picture_has_a_source() -> None:
    """In docs/ those of `make figures`; the others lie beside their study or are drawn by a notebook."""
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.png")} == set(PICTURES)


def test_the_demo_s_picture_shows_the_recorded_run() -> None:
    """The run kept for the picture is the one whose numbers the documentation gives."""
    run, (told, *_) = (
        load_run(ROOT / "experiments" / "benchmarks" / "results" / "demo-llm"),
        json.loads((ROOT / "experiments" / "benchmarks" / "results" / "demo-llm.json").read_text())["rows"],
    )
    row = result(run)
    assert (row.before, row.after, row.masked) == (told["before"], told["after"], told["masked"])
    accuracy, reward, masked, drift = (ax.get_lines()[0] for ax in draw_demo_llm().axes)
    assert accuracy.get_ydata().tolist() == [100 * each["accuracy"] for each in run.rows("eval")]
    assert reward.get_ydata().tolist() == [each["reward"] for each in run.rows("rollout")]
    for line, key, scale in ((masked, "mask/frac", 100), (drift, "drift", 1)):
        means = [
            np.mean([scale * each[key] for each in run.rows("update") if each["iteration"] == i]) for i in range(5)
        ]
        assert line.get_ydata().tolist() == pytest.approx(means)

