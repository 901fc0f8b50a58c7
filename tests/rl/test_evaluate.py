"""Avg@k on data sets: what is written, what is counted, and that a stopped evaluation goes on where it was."""

import json
import math
import statistics
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from minicppo.rl import evaluate
from minicppo.rl.config import ModelConfig
from minicppo.rl.evaluate import DataSettings, evaluate_data, mean_accuracy
from minicppo.rl.grading.reward import Outcome
from minicppo.rl.policy import Policy, build_policy, character_tokenizer
from minicppo.rl.sampling import Rollout
from minicppo.rl.tasks import make_task
from tests.rl.test_data import write_jsonl

pytest.importorskip("math_verify", reason="math-verify is not installed (extra: math)")
pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: math)")

ALPHABET = "0123456789Answer: +=?\n"
PROBLEMS = 7


@pytest.fixture
def parrot(monkeypatch):
    """Answers the sum of a prompt `a + b` rightly now and then, without any model; `prompts` are those it was asked."""
    parrot = SimpleNamespace(prompts=[], policy=Policy(torch.nn.Linear(1, 1), character_tokenizer(ALPHABET)))

    def sample(policy, prompts, limit, temperature, generator, **options):
        assert (temperature, options["top_p"], options["likeliest"]) == (0.7, 0.95, False)
        rows = []
        for prompt in map(policy.decode, prompts):
            parrot.prompts.append(prompt)
            total = sum(int(part) for part in prompt.replace("?", "").split("+"))
            for wrong in torch.rand(options["samples"], generator=generator).tolist():
                text = f"Answer: {total + int(wrong > 0.5)}" if wrong > 0.1 else "?"
                rows.append(torch.tensor([*policy.encode(text), policy.eos_id][:limit]))
        ids = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
        return Rollout(ids, mask, ids, mask, torch.zeros(ids.shape))

    monkeypatch.setattr(evaluate, "sample", sample)
    monkeypatch.setattr(evaluate, "require_agreement", lambda *args: None)  # there is no model to ask
    return parrot


def rows_of_sums(n, form="{} + 8"):
    return [{"question": form.format(i), "answer": f"{i + 8}"} for i in range(n)]


@pytest.fixture
def sums(tmp_path):
    return str(write_jsonl(tmp_path / "sums.jsonl", rows_of_sums(PROBLEMS)))


SETTINGS = DataSettings("parrot", samples=16, max_new_tokens=20, template="{problem}?")


def read(folder):
    import pyarrow.parquet as parquet

    return parquet.read_table(folder / "sums.parquet").to_pylist()


def test_results_problem_by_problem(parrot, sums, tmp_path):
    seen = []

    def told(*progress):
        seen.append(progress[:3])
        with pytest.raises(BlockingIOError, match="is being written by another evaluation"):
            evaluate_data(parrot.policy, [sums], SETTINGS, tmp_path / "out")

    scores = evaluate_data(parrot.policy, [sums], SETTINGS, tmp_path / "out", told)
    rows, score = read(tmp_path / "out"), scores["sums"]
    assert seen == [("sums", done, PROBLEMS) for done in range(PROBLEMS + 1)]
    assert [row["index"] for row in rows] == list(range(PROBLEMS))
    assert [row["question"] for row in rows] == [f"{i} + 8" for i in range(PROBLEMS)]
    assert all(len(row["responses"]) == len(row["lengths"]) == 16 for row in rows)
    for row in rows:
        right = [response == f"Answer: {row['answer']}" for response in row["responses"]]
        assert row["accuracy"] == sum(right) / 16
        assert [outcome == Outcome.RIGHT for outcome in row["outcomes"]] == right
    means = [row["accuracy"] for row in rows]
    mean = sum(means) / PROBLEMS
    assert score.accuracy == pytest.approx(mean)
    assert score.accuracy_se == pytest.approx(statistics.stdev(means) / math.sqrt(PROBLEMS))
    assert 0 < 1 - score.format_rate == pytest.approx(score.outcomes["missing"] / (16 * PROBLEMS))
    assert score.unfinished == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["data"]["sums"] == score.as_result()
    assert results["settings"]["samples"] == 16


@pytest.mark.parametrize(("batch", "torn"), [(1, b'{"index": 5, "quest'), (3, b"")])
def test_a_stopped_evaluation_goes_on_where_it_was(parrot, sums, tmp_path, batch, torn):
    settings = replace(SETTINGS, batch=batch)
    whole = evaluate_data(parrot.policy, [sums], settings, tmp_path / "whole")
    parrot.prompts.clear()

    def stop(name, done, total, accuracy):
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_data(parrot.policy, [sums], settings, tmp_path / "part", stop)
    assert len(parrot.prompts) == 3
    assert not (tmp_path / "part" / "sums.parquet").exists()
    record = tmp_path / "part" / "sums.jsonl"
    record.write_bytes(record.read_bytes() + torn)  # killed in the middle of writing

    assert evaluate_data(parrot.policy, [sums], settings, tmp_path / "part") == whole
    assert parrot.prompts == [f"{i} + 8?" for i in range(PROBLEMS)], "no problem was sampled twice"
    assert record.read_bytes() == (tmp_path / "whole" / "sums.jsonl").read_bytes()
    assert read(tmp_path / "part") == read(tmp_path / "whole")


CHANGED = r"holds an evaluation with weights = '\w{16}' and not '\w{16}': .*\(--out\)"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *product(["weights", "tokenizer", "template"], [CHANGED]),
        ("samples", r"with samples = 16 and not 8: .*\(--out\)"),
        *product(["answer", "questions"], ["written for other problems"]),
        *product(["nothing", "place"], [None]),
    ],
)
def test_what_determines_an_evaluation_and_not_its_place_needs_another_folder(changed, message, parrot, sums, tmp_path):
    policy, settings = parrot.policy, SETTINGS
    policy.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    evaluate_data(policy, [sums], settings, tmp_path / "out")
    parrot.prompts.clear()
    first, *others = rows_of_sums(PROBLEMS)
    if changed == "weights":
        policy.model.weight.data += 1e-3
    elif changed == "tokenizer":
        policy = Policy(policy.model, character_tokenizer(ALPHABET[::-1]))
    elif changed == "template":
        policy = replace(policy, chat=True)
    elif changed in ("samples", "place"):
        settings = replace(SETTINGS, **{"samples": {"samples": 8}, "place": {"model": "moved/parrot"}}[changed])
    elif changed != "nothing":
        write_jsonl(Path(sums), [first | {"answer": "99"}, *others] if changed == "answer" else rows_of_sums(1, "{}+8"))
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        evaluate_data(policy, [sums], settings, tmp_path / "out")
    assert not parrot.prompts


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_that_cannot_be_sampled_claim_no_folder(changes):
    with pytest.raises(ValueError, match=r"must be positive and top_p = .* in \(0, 1\]"):
        replace(SETTINGS, **changes)


def test_responses_that_reach_the_limit_are_counted(parrot, sums, tmp_path):
    score = evaluate_data(parrot.policy, [sums], replace(SETTINGS, max_new_tokens=9), tmp_path / "out")["sums"]
    assert 0.8 < score.unfinished < 1  # all but the short "?"


def test_a_single_problem_has_no_standard_error(parrot, tmp_path):
    path = str(write_jsonl(tmp_path / "sums.jsonl", rows_of_sums(1)))
    score = evaluate_data(parrot.policy, [path], SETTINGS, tmp_path / "out")["sums"]
    assert score.accuracy_se is None
    assert mean_accuracy([score, score])[1] is None


def test_the_mean_over_sets_weighs_them_equally(parrot, sums, tmp_path):
    other = str(write_jsonl(tmp_path / "other.jsonl", [{"question": f"{i} + 9", "answer": f"{i}"} for i in range(2)]))
    scores = evaluate_data(parrot.policy, [sums, other], SETTINGS, tmp_path / "out")
    mean, error = mean_accuracy(list(scores.values()))
    assert mean == pytest.approx(scores["sums"].accuracy / 2)
    assert error == pytest.approx((scores["sums"].accuracy_se or 0) / 2)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["mean"]["accuracy"] == mean
    with pytest.raises(ValueError, match="share a name"):
        evaluate_data(parrot.policy, [sums, sums], SETTINGS, tmp_path / "again")


def test_a_real_policy_is_sampled_the_same_way_whatever_was_done_before(sums, tmp_path):
    task = make_task("addition", prompt="{a}+{b}" + ALPHABET)  # for its characters
    sizes = ModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2)
    policy = build_policy(sizes, task, seed=0)
    settings = replace(SETTINGS, samples=3, max_new_tokens=8)
    evaluate_data(policy, [sums], settings, tmp_path / "whole")
    record = (tmp_path / "whole" / "sums.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "sums.jsonl").write_text(record[5] + record[2])
    evaluate_data(policy, [sums], settings, tmp_path / "part")
    assert read(tmp_path / "part") == read(tmp_path / "whole")
