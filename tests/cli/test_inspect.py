"""`minicppo inspect`: the page of a terminal, JSON, two logs side by side, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from minicppo.inspect import inspection
from tests.inspect.made import made, records, written


@pytest.fixture
def log(tmp_path):
    return written(tmp_path / "log.jsonl", records(made("clean", 6), "prime-rl", step=3))


def test_json_says_everything(minicppo, log):
    report = json.loads(minicppo("inspect", str(log), "--json").done())
    assert report["responses"] == len(made("clean", 6)["mu"])
    d = np.concatenate(made("clean", 6)["pi"]) - np.concatenate(made("clean", 6)["mu"])
    assert (report["format"], report["tokens"], report["artefacts"]) == ("prime-rl", len(d), [])
    assert (report["drift"], report["k3"]) == pytest.approx((np.abs(d).mean(), np.mean(np.expm1(d) - d)))
    assert report["ess"] == pytest.approx(np.exp(d).mean() ** 2 / np.exp(2 * d).mean())
    assert report["methods"]["cppo"]["masked"] == pytest.approx(report["masked"])
    assert report["methods"]["ppo"]["masked"] == report["methods"]["grpo"]["masked"] > 0
    assert report["methods"]["icepop"] == {"masked": None, "why": "needs pi_old"}


def test_the_terminals_page_and_a_file_that_replaces_none_but_its_like(minicppo, log):
    first = minicppo("inspect", str(log), "--method", "grpo", "--out", "page.html")
    for words in ("No artefact found", "Mismatch and drift", "By position", "What grpo masks most", "Early warning"):
        assert words in first.done()
    assert "page written to page.html" in first.err
    assert Path("page.html").stat().st_size > 10_000
    again = minicppo("inspect", str(log), "--out", "page.html", "--set", "delta=1", "--set", "budget=off", "--json")
    assert "page written over the old one to page.html" in again.err
    wide = json.loads(again.done())
    assert (wide["masked"], wide["rule"]["params"]["delta"]) == (0, 1)
    Path("notes.html").write_text("mine")
    assert "is no page of this command" in minicppo("inspect", str(log), "--out", "notes.html").refused()
    assert Path("notes.html").read_text() == "mine"
    assert "there is no folder nowhere" in minicppo("inspect", str(log), "--out", "nowhere/page.html").refused()


@pytest.mark.slow
def test_two_logs_side_by_side(minicppo, log, tmp_path):
    shifted = written(tmp_path / "shifted.jsonl", records(made("shifted", 6), "prime-rl"))
    text = minicppo("inspect", "--compare", str(log), str(shifted)).done()
    (line,) = (line for line in text.splitlines() if line.strip().startswith("artefacts"))
    assert line.split() == ["artefacts", "none", "shifted"]
    both = json.loads(minicppo("inspect", "--compare", str(log), str(log), "--json").done())
    assert both[0]["k3"] == both[1]["k3"]


def test_a_log_of_mu_alone(minicppo, tmp_path):
    content = [{"token": "\x1b[31mred", "logprob": -0.5}] * 4
    log = written(tmp_path / "a.jsonl", [{"choices": [{"logprobs": {"content": content}}]}])
    text = minicppo("inspect", str(log), "-o", str(tmp_path / "a.html")).done()
    assert "of mu alone little can be told" in text
    assert "\x1b[31mred" not in text


def test_foreign_strings_are_shown_not_obeyed_and_a_broken_line_is_left_out(minicppo, tmp_path):
    rows = records(made("clean", 6))
    for row in rows:
        row["tokens"] = ["\x1b[2J[bold]x"] * len(row["response_ids"])
    log = written(tmp_path / "a.jsonl", rows)
    log.write_text(log.read_text() + "{broken\n")
    assert f"a.jsonl, line {len(rows) + 1}: no JSON" in minicppo("inspect", str(log)).refused()
    text = minicppo("inspect", str(log), "--skip-broken", "--method", "grpo").done()
    assert "1 broken record left out" in text
    assert "\x1b[2J" not in text
    assert "[bold]" in text


def test_ctrl_c_leaves_what_there_is(minicppo, log, monkeypatch):
    whole = inspection.portions

    def stopped(rows):
        for i, part in enumerate(whole(rows, size=500)):
            if i == 2:
                raise KeyboardInterrupt
            yield part

    monkeypatch.setattr(inspection, "portions", stopped)
    outcome = minicppo("inspect", str(log), "--json", "--method", "grpo")
    report = json.loads(outcome.out)
    assert (outcome.status, report["partial"]) == (130, True)
    assert "before anything was begun" not in outcome.err
    assert 0 < report["responses"] < len(made("clean", 6)["mu"])
