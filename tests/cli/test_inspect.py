"""`minicppo inspect`: the page of a terminal, JSON, two logs side by side, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.inspect.made import made, records, written


@pytest.fixture
def log(tmp_path):
    return written(tmp_path / "log.jsonl", records(made("clean", 6), "prime-rl", step=3))


def test_json_says_everything(minicppo, log):
    report = json.loads(minicppo("inspect", str(log), "--json").done())
    made_log = made("clean", 6)
    mu, pi = np.concatenate(made_log["mu"]), np.concatenate(made_log["pi"])
    assert (report["format"], report["responses"], report["tokens"]) == ("prime-rl", len(made_log["mu"]), len(mu))
    assert report["artefacts"] == []
    assert report["k3"] == pytest.approx(np.mean(np.expm1(pi - mu) - (pi - mu)))
    assert report["drift"] == pytest.approx(np.abs(pi - mu).mean())
    assert report["ess"] == pytest.approx(np.exp(pi - mu).mean() ** 2 / np.exp(2 * (pi - mu)).mean())
    assert report["methods"]["cppo"]["masked"] == pytest.approx(report["masked"])
    assert report["methods"]["ppo"]["masked"] == report["methods"]["grpo"]["masked"] > 0
    assert report["methods"]["icepop"] == {"masked": None, "why": "needs pi_old"}


def test_the_terminals_page(minicppo, log, tmp_path):
    text = minicppo("inspect", str(log), "--method", "grpo", "--out", str(tmp_path / "page.html")).done()
    for words in ("No artefact found", "Mismatch and drift", "By position", "What grpo masks most", "Early warning"):
        assert words in text
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_page_replaces_none_but_its_like(minicppo, log):
    first = minicppo("inspect", str(log), "--out", "page.html")
    again = minicppo("inspect", str(log), "--out", "page.html")
    assert "page written to page.html" in first.err
    assert "page written over the old one to page.html" in again.err
    Path("notes.html").write_text("mine")
    assert "is no page of this command" in minicppo("inspect", str(log), "--out", "notes.html").refused()
    assert Path("notes.html").read_text() == "mine"
    assert "there is no folder nowhere" in minicppo("inspect", str(log), "--out", "nowhere/page.html").refused()


def test_settings_of_the_rule_matter(minicppo, log):
    wide = json.loads(minicppo("inspect", str(log), "--set", "delta=1", "--set", "budget=off", "--json").done())
    assert (wide["masked"], wide["rule"]["params"]["delta"]) == (0, 1)


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


def test_foreign_strings_are_shown_not_obeyed(minicppo, tmp_path):
    rows = records(made("clean", 6))
    for row in rows:
        row["tokens"] = ["\x1b[2J[bold]x"] * len(row["response_ids"])
    text = minicppo("inspect", str(written(tmp_path / "a.jsonl", rows))).done()
    assert "\x1b[2J" not in text
    assert "[bold]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "no such file, folder or pattern"),
        (["LOG", "--format", "primerl"], "did you mean 'prime-rl'?"),
        (["LOG", "--method", "cppo-topk"], "needs topk of both policies"),
        (["LOG", "--set", "detla=1"], "did you mean 'delta'?"),
        (["LOG", "--tokenizer", "nowhere"], "there is no such folder"),
    ],
)
def test_what_is_refused_is_one_line(minicppo, log, arguments, message):
    assert message in minicppo("inspect", *(str(log) if each == "LOG" else each for each in arguments)).refused()


def test_a_broken_line(minicppo, log):
    log.write_text(log.read_text() + "{broken\n")
    lines = len(log.read_text().splitlines())
    assert f"log.jsonl, line {lines}: no JSON" in minicppo("inspect", str(log)).refused()
    assert json.loads(minicppo("inspect", str(log), "--skip-broken", "--json").done())["skipped"] == 1


def test_ctrl_c_leaves_what_there_is(minicppo, log, monkeypatch):
    from minicppo.inspect import inspection

    whole = inspection.portions

    def stopped(rows):
        for i, part in enumerate(whole(rows, size=500)):
            if i == 2:
                raise KeyboardInterrupt
            yield part

    monkeypatch.setattr(inspection, "portions", stopped)
    outcome = minicppo("inspect", str(log), "--json")
    report = json.loads(outcome.out)
    assert (outcome.status, report["partial"]) == (130, True)
    assert "before anything was begun" not in outcome.err
    assert 0 < report["responses"] < len(made("clean", 6)["mu"])
