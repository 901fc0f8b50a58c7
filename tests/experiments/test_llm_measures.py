"""The measures beside the demo with a pretrained model: precision, and the baseline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmarks import baseline, mismatch
from experiments.benchmarks.common import RESULTS, table
from minicppo.rl.config import ModelConfig
from minicppo.rl.policy import build_policy
from minicppo.rl.tasks import make_task

PAGE = Path(__file__).parents[2] / "docs" / "demo-llm.md"


def test_the_precision_measure_tells_the_pairs_apart(tmp_path):
    mismatch.main(["--small", "--json", str(tmp_path / "m.json")])
    exact, _, mixed = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert exact["log_ratio_max"] < 1e-5 < mixed["log_ratio_max"]
    assert exact["ratio_min"] <= 1 <= exact["ratio_max"]


def test_measuring_leaves_the_weights_as_they_were():
    task = make_task("chain", steps=2)
    policy = build_policy(ModelConfig(hidden_size=16, intermediate_size=32, heads=2), task, 0)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    row = mismatch.measure(policy, task, 2, 4, (None, None))
    assert row["drift_of_one_update"] > 0  # the step was taken
    assert all(torch.equal(before[name], value) for name, value in policy.model.state_dict().items())


def test_the_angle_is_one():
    assert mismatch.angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])) == pytest.approx(90)
    assert mismatch.angle(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])) == pytest.approx(0, abs=1e-4)


def test_the_baseline_is_a_table(tmp_path, capsys):
    baseline.main(["--small", "--json", str(tmp_path / "b.json")])
    assert "| task | problems | 0-shot greedy (%) |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert all(0 <= value[0] <= 1 for key, value in row.items() if isinstance(value, list))
    assert len(row) == 2 + 6


def test_the_page_shows_what_was_measured():
    page = PAGE.read_text(encoding="utf-8")
    exact, starts, demos = (
        json.loads((RESULTS / f"{name}.json").read_text())["rows"] for name in ("mismatch", "baseline", "demo-llm")
    )
    assert table(exact, mismatch.COLUMNS) in page
    assert baseline.table_of(starts) in page
    for demo in demos:
        before, se, after, se_after = (100 * demo[key] for key in ("before", "before_se", "after", "after_se"))
        assert f"| {before:.1f} ± {se:.1f}, {after:.1f} ± {se_after:.1f} % |" in page
        assert f"| {100 * demo['greedy_before']:.1f}, {100 * demo['greedy_after']:.1f} % |" in page
        assert f"| {demo['wall_s']:.0f}, {demo['cpu_s']:.0f} s |" in page
        assert f"| {demo['process_peak_memory_mb'] * 2**20 / 1e9:.2f} GB |" in page
        assert demo["after"] - demo["before"] >= 0.3
        assert demo["held_out_problems"] >= 200
    assert [round(100 * np.ptp([demo[key] for demo in demos])) for key in ("after", "greedy_after")] == [6, 10]
    assert "that alone is six points of sampled\naccuracy and ten" in page
