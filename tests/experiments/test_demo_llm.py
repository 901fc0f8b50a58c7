"""The demo with a pretrained model, on a llama of one layer with random weights, and what it says without a model."""

import json
import re

import pytest
from rich.console import Console

from experiments.demo_llm import PRESET, require_room
from experiments.demo_llm_answers import Answer, coloured, side_by_side, side_by_side_markdown
from minicppo.plots.runs import load_run
from minicppo.rl.config import ConfigError, load_config
from minicppo.rules import Reason
from tests.fake_runs import write_run
from tests.rl.test_gguf import TINY_RUN, needs_readers, write_tiny_gguf


@pytest.mark.slow
@needs_readers
def test_the_whole_demo(experiments, tmp_path):
    write_tiny_gguf(tmp_path / "tiny.gguf")
    small = ["demo-llm", "--out", "out", "model.path=tiny.gguf", *TINY_RUN]
    shown = experiments(*small).done()
    for piece in ("before", "after", "Held-out problems, one sample each", "What to look at", "One seed ranks nothing"):
        assert piece in shown
    assert re.search(r"differ by \d\.\de[+-]\d\d on average", shown), "next to nothing in float32, yet not zero"
    folder = tmp_path / "out" / "cppo"
    summary = json.loads((folder / "demo.json").read_text())
    assert {"before", "before_se", "after", "after_se", "cpu_s", "wall_s", "process_peak_memory_mb"} <= set(summary)
    for name in ("report.md", "curves.png", "reasons.png", "drift.png", "response.png", "answer.html"):
        assert (folder / name).stat().st_size > 500, name
        assert name in shown
    assert "| problem | answer | before | after |" in (folder / "report.md").read_text()
    assert not list(folder.rglob("optimizer.safetensors"))

    logged, record = (folder / "metrics.jsonl").read_bytes(), (folder / "demo.json").read_bytes()
    experiments(*small).done()  # a finished run is kept
    assert (folder / "metrics.jsonl").read_bytes() == logged
    assert (folder / "demo.json").read_bytes() == record, "what the run cost, not what looking at it again did"
    assert "holds a run of other settings" in experiments(*small, "seed=5").refused()
    experiments(*small, "--method", "dppo-topk").done()


def test_whole_distributions_are_allowed_while_they_fit():
    for fits in (["method=cppo-topk", "rollout.prompts=64"], ["method=cppo-exact", "rollout.prompts=8"]):
        require_room(load_config(PRESET, fits), 49152)
    with pytest.raises(ConfigError, match=r"a row of 49152 log-probs .* over 256.*cppo-topk.*prompts=4"):
        require_room(load_config(PRESET, ["method=cppo-exact"]), 49152)


def test_answers_side_by_side():
    before, after = [Answer("1 + 2?", "3", "it | is *4*", False)], [Answer("1 + 2?", "3", "3", True)]
    console = Console(width=100, record=True)
    console.print(side_by_side(before, after))
    text = console.export_text()
    assert "✗ it | is *4*" in text
    assert "✓ 3" in text
    assert r"| 1 + 2? | 3 | it \| is \*4\* | **3** |" in side_by_side_markdown(before, after)


def test_every_token_has_the_colour_of_its_verdict(tmp_path):
    trace = load_run(write_run(tmp_path / "run", "cppo-exact")).trace
    text, reasons = coloured(trace, 0), trace.reason[0][trace.reason[0] != Reason.PAD]
    assert text.plain.startswith("".join(trace.tokens[0]))
    verdict_of = {(str(span.style), int(reason)) for span, reason in zip(text.spans, reasons, strict=False)}
    assert len({reason for _, reason in verdict_of}) > 1
    assert len({style for style, _ in verdict_of}) == len(verdict_of), "no two verdicts share a colour"
    told = f"masked by the token test: {int((reasons == Reason.TOKEN).sum())}"
    assert (told in text.plain) == (Reason.TOKEN in reasons)
