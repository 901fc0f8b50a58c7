"""`minicppo explain` beside the worked example and the reference loop."""

import json
import math
import random
from pathlib import Path

import pytest
from matplotlib.patches import StepPatch
from safetensors.numpy import load_file, save_file

from minicppo.cli.explain import of_loop
from minicppo.plots.explain import REASONS, legend, picture
from minicppo.reference import Response
from minicppo.reference.explained import explain_cppo
from minicppo.rules import METHODS, get_method
from minicppo.rules.explained import explain
from minicppo.verdicts import COLUMNS, Reason
from tests.fake_runs import write_run

MU, PI = [0.5, 0.4, 0.5, 0.9, 0.3], [0.6, 0.48, 0.4, 0.91, 0.5]
EXAMPLE = ["explain", "--mu", ".5,.4,.5,.9,.3", "--pi", ".6,.48,.4,.91,.5", "budget=fixed"]


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.family == "cppo"])
def test_the_loop_and_the_rule_explain_alike(name):
    rule, rng = get_method(name), random.Random(name)
    for length in (1, 2, 20):
        mu, pi, D = ([rng.uniform(0.05, 1) for _ in range(length)] for _ in range(3))
        A, D = [rng.uniform(-2, 2) for _ in mu], None if rule.needs == "log_probs" else [0.3 * d for d in D]
        values = of_loop(name, {"delta": 0.11, "budget": "fixed"})
        if values is None:
            assert rule.gate == "budget" or rule.schedule == "shuffled" or rule.direction == "predicted"
            return
        by_loop = explain_cppo(Response(mu, pi, A, given_divergence=D), values)
        by_rule = explain(mu, pi, A, name, D, delta=0.11, budget="fixed")
        for one, other in zip(by_loop, by_rule, strict=True):
            numbers = [{k: x for k, x in row.items() if isinstance(x, float)} for row in (one, other)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-7)
            assert [one["verdict"], one["reason"], one["t"]] == [other["verdict"], other["reason"], other["t"]]
            assert one.keys() == other.keys()


def test_the_command_prints_a_table_json_and_a_picture(minicppo):
    assert minicppo(*EXAMPLE, "--plot", "picture.png").done().count("MASK, prefix") == 2
    assert Path("picture.png").stat().st_size > 10_000
    rows = json.loads(minicppo(*EXAMPLE, "--json").done())
    assert [row["reason"] for row in rows] == ["inside", "prefix", "toward", "prefix", "both"]


def test_log_probs_a_file_and_a_page_say_the_same(minicppo):
    rows = json.loads(minicppo(*EXAMPLE, "--json").done())
    logs = [",".join(str(math.log(p)) for p in values) for values in (MU, PI)]
    again = json.loads(minicppo("explain", f"--mu={logs[0]}", f"--pi={logs[1]}", "budget=fixed", "--json").done())
    assert [row["verdict"] for row in again] == [row["verdict"] for row in rows]
    assert [row["Z"] for row in again] == pytest.approx([row["Z"] for row in rows])
    Path("row.json").write_text(json.dumps({"mu": MU, "pi": PI, "tokens": [" =", "</p><script>", "\n", "c", "d"]}))
    shown = minicppo("explain", "--file", "row.json", "budget=fixed", "--html", "row.html").done()
    cells = [line.split()[:2] for line in shown.splitlines()]
    assert ["1", "·="] in cells
    assert ["3", "⏎"] in cells
    page = Path("row.html").read_text()
    assert "<script>" not in page
    assert "&lt;/p&gt;&lt;script&gt;" in page
    assert page.count("line-through") == 3 + 2, "three masked tokens, and two verdicts in the key"


def test_no_zero_has_a_sign(minicppo):
    shown = minicppo("explain", "--mu", ".5,.5", "--pi", ".5,.6", "--advantage=-0.0", "--html", "row.html").done()
    assert "-0" not in shown
    assert "A -0," not in Path("row.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mu": [.5]', "row.json cannot be used: Expecting value: line 1 column 9 (char 8). Way out: one JSON object"),
        ('{"mu": [0.5]}', "the lists mu and pi are wanted, perhaps advantage, divergence, old, tokens, and nothing"),
        ("[0.5]", "are wanted, perhaps advantage, divergence, old, tokens, and nothing else. Way out: one JSON object"),
        ('{"mu": ["a"], "pi": [0.5]}', "mu is no list of numbers"),
        ('{"mu": [0.5, 0.4], "pi": [0.6, 0.48], "tokens": ["="]}', "there are 1 token for the 2 of mu"),
        ('{"mu": [0.5], "pi": [0.6], "old": []}', "old has 0 values for the 1 tokens"),
        ('{"mu": [0.5], "pi": [0.6], "divergence": []}', "divergence has 0 values for the 1 tokens"),
    ],
)
def test_a_file_that_is_not_what_is_wanted_says_what_is(minicppo, text, message):
    Path("row.json").write_text(text)
    assert message in minicppo("explain", "--file", "row.json").refused()


def test_a_row_of_a_run_is_explained_by_its_own_method(minicppo, trained):
    shown = minicppo("explain", "--run", trained, "--row", "2").done()
    assert "dppo" in shown
    assert "delta" not in shown.partition("Verdicts")[0].partition("c:")[0]
    assert "--row 999" in minicppo("explain", "--run", trained, "--row", "999").refused()


def test_a_response_that_was_certain_is_explained(minicppo):
    """Its log-probs are 0, which no probability is."""
    run = write_run(Path("run"))
    arrays = load_file(run / "trace.safetensors")
    for name in ("log_probs", "rollout_log_probs"):
        arrays[name] = 0 * arrays[name]
    save_file(arrays, run / "trace.safetensors")
    rows = json.loads(minicppo("explain", "--run", "run", "--json").done())
    assert {(row["mu"], row["pi"]) for row in rows} == {(1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_explains_every_method(method):
    rule = get_method(method)
    if rule.params.get("direction") == "predicted":
        with pytest.raises(ValueError, match="predicts its direction from whole distributions"):
            explain(MU, PI, [1.0], method)
        return
    rows = explain(MU, PI, [1.0], method, divergence=None if rule.needs == "log_probs" else [0.1, 0.08, 0.1, 0.01, 0.2])
    assert [set(row) for row in rows] == [{*COLUMNS, "reason", "delta_b"}] * 5
    words = [(row["verdict"].partition(", ")[2], REASONS[Reason[row["reason"].upper()]]) for row in rows]
    assert all(meaning.startswith(f"{word}: ") for word, meaning in words), "the legend explains what the table says"
    assert picture(rows, method).axes


def test_pi_old_adds_mismatch_and_drift(minicppo):
    options = ("explain", "--mu", ".5,.1,.4", "--old", ".5,.3,.1", "--pi", ".6,.3,.1", "--method", "grpo")
    rows = json.loads(minicppo(*options, "correction=icepop", "--json").done())
    assert [row["mismatch"] for row in rows] == pytest.approx([1, 3, 0.25])
    assert [row["drift"] for row in rows] == pytest.approx([1.2, 1, 1])
    assert [row["verdict"] for row in rows] == ["keep, inside", "MASK, mismatch", "MASK, mismatch"]
    shown = " ".join(minicppo(*options, "correction=icepop").done().split())
    assert "old/mu pi/old" in shown
    assert "pi/old: its drift, pi / pi_old" in shown


@pytest.mark.parametrize(
    ("method", "advantage"), [("cppo", 1.0), ("cppo-decoupled", 1.0), ("dppo", 1.0), ("grpo", 1.0), ("ppo", -1.0)]
)
def test_masked_is_what_moves_away_beyond_its_limit(method, advantage):
    rows = explain(MU, [0.63, *PI[1:]], [advantage], method)  # 1.26 is beyond 1 / 0.8, and within 1.28
    for row in rows:
        tested = next(x for x in (row["Z"], row["D"], abs(math.log(row["rho"]))) if x is not None)
        assert row["verdict"].startswith("MASK") == (advantage * (row["rho"] - 1) > 0 and tested > row["c"])
    assert "limit on" in legend(rows)
    (line,) = (child for child in picture(rows, method).axes[0].patches if isinstance(child, StepPatch))
    assert line.get_data().values.tolist() == [row["c"] for row in rows]
