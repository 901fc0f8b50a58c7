"""The report's figures on logs made by hand, where they can be told by a pencil."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from minicppo.inspect import inspection
from minicppo.inspect.counterfactual import Counterfactuals, certificate, masked_share, thresholds
from minicppo.inspect.inspection import by_position, mean, one_string
from minicppo.inspect.statistics import Moments, Statistics, octave, octave_start
from minicppo.inspect.table import Row, portions, table
from minicppo.inspect.tokens import Strings
from minicppo.rules import get_method
from tests.inspect.made import written

LOG = np.log
ROWS = [  # grpo masks pi / mu above 1.28 where A > 0, below .8 where A < 0
    Row(LOG([0.5, 0.5]), LOG([0.5, 0.75]), LOG([0.5, 0.6]), 1.0, np.array([7, 8]), reward=1.0, group="p", step=2),
    Row(LOG([0.5, 0.4, 0.8]), LOG([0.25, 0.4, 0.8]), LOG([0.5, 0.4, 0.8]), -1.0, np.array([7, 7, 8]), reward=0.0),
]  # fmt: skip


def test_moments():
    found = Moments()
    found.add(LOG([1.0, 2.0, 0.5, 1.0]))
    row = found.row()
    assert row["mean"] == pytest.approx(LOG(2) / 2)
    assert (row["k1"], row["k2"]) == (pytest.approx(0), pytest.approx(LOG(2) ** 2 / 4))
    assert (row["k3"], row["chi2"]) == (pytest.approx(0.125), pytest.approx(1.25 / 4))
    assert (row["ess"], row["prob_error"]) == (pytest.approx(4.5**2 / 4 / 6.25), pytest.approx(1.5))
    assert (row["ratio_min"], row["ratio_max"], row["ratio_p50"]) == (0.5, 2.0, pytest.approx(1, abs=0.01))
    assert 0.05 < row["median"] < LOG(2) * 1.1 or row["median"] == 0


def test_groups_of_a_log_made_by_hand():
    stats = Statistics(get_method("grpo"))
    reason = stats.add(table(ROWS))
    assert reason is not None
    assert (reason >= 3).tolist() == [False, True, True, False, False]
    by = {name: {row[name]: row for row in stats.table_of(name)} for name in ("position", "sign", "reward", "step")}
    positions = {k: (row["tokens"], row["masked"]) for k, row in by["position"].items()}
    assert positions == {0: (2, 0.5), 1: (2, 0.5), 2: (1, 0)}
    assert {k: row["masked"] for k, row in by["sign"].items()} == {-1: pytest.approx(1 / 3), 1: 0.5}
    assert {k: row["tv"] for k, row in by["reward"].items()} == {0: pytest.approx(0.25 / 3), 1: pytest.approx(0.125)}
    assert list(by["step"]) == [0, 2]
    assert stats.ess_responses == pytest.approx((1.5 + 0.5) ** 2 / (2 * (1.5**2 + 0.5**2)))
    assert stats.mismatch.row()["mean"] == pytest.approx(LOG(1.2) / 5)
    assert {(row["step"], row["position"]) for row in stats.heat()} == {(2, 0), (2, 1), (0, 0), (0, 1), (0, 2)}


def test_positions_are_binned_by_half_octaves():
    starts = [octave_start(code) for code in range(60)]
    assert octave(np.arange(9)).tolist() == [0, 2, 3, 4, 4, 5, 5, 6, 6]
    assert all(octave(np.array([start]))[0] == code for code, start in enumerate(starts) if code != 1)


def test_strings_are_counted_by_sign_and_reason():
    strings, part = Strings(lambda number: f"<{number}>"), table(ROWS)
    for _ in range(2):
        strings.add(part, np.array([2, 3, 4, 2, 1]))
    rows = strings.rows()
    assert [(row["text"], row["sign"], row["tokens"], row["token"], row["prefix"]) for row in rows] == [
        ("<8>", 1, 2, 2, 0),
        ("<7>", -1, 4, 0, 2),
    ]
    assert one_string([{**row, "masked": 50} for row in rows]) == 1.0
    strings.add(table([replace(ROWS[0], texts=np.array(["a", "b"], object)), ROWS[1]]), np.full(5, 2))
    assert {row["text"] for row in strings.rows()} == {"a", "b"}, "a response without texts takes none away"


def test_counterfactuals_agree_with_each_method_alone():
    others = Counterfactuals()
    others.add(table(ROWS))
    rows, pairs = others.rows(), others.agreement()
    assert rows["grpo"]["masked"] == masked_share(table(ROWS), get_method("grpo")) == 0.4
    assert (rows["none"]["masked"], rows["none"]["changed"]) == (0, 0)
    assert rows["cppo-topk"] == {"masked": None, "why": "needs topk of both policies"}
    assert rows["icepop"]["masked"] is not None, "there is a pi_old"
    assert pairs["grpo"]["dppo"] == pytest.approx(1.0)


def test_thresholds_mask_what_is_wished_and_rewards_make_a_certificate():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        mu = -rng.exponential(1, 25)
        pi = np.minimum(mu + rng.normal(0, 0.3, 25), -1e-6)
        rows.append(Row(mu, pi, advantages=float(i % 2) - 0.5, reward=float(i % 2), group=i // 4))
    found = thresholds(table(rows), get_method("cppo"))
    assert [row["masked"] for row in found] == pytest.approx([row["wished"] for row in found], abs=0.004)
    assert certificate(table(rows))["certificate/groups"] == 10
    assert certificate(table([Row(np.array([-1.0]), np.array([-1.0]))])) is None


def test_early_figures():
    rows = [{"tokens": 40, "gap": g, "k3": k} for g, k in ((0.5, 0.1), (0.1, 0.1), (0.1, 0.4), (0.1, 0.4))]
    assert by_position(rows) == (pytest.approx(4), pytest.approx(5))
    assert mean(rows, "k3") == pytest.approx(0.25)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(tmp_path):
    row = {"rollout_log_probs": [-0.123456] * 2000, "log_probs": [-0.123455] * 2000, "advantages": [0.5] * 2000}
    log = written(tmp_path / "log.jsonl", [row] * 1500)
    code = "import sys; from minicppo.inspect import inspect; inspect([sys.argv[1]]).report; "
    code += "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    done = subprocess.run([sys.executable, "-c", code, log], capture_output=True, check=True)
    assert int(done.stdout) < 500_000, "3 million tokens, in KB"


@pytest.mark.parametrize("size", [60, 500])
@pytest.mark.parametrize("advantages", [{"advantages": 1.0}, {}])
def test_of_a_very_long_log_responses_evenly_spread_are_looked_at(tmp_path, monkeypatch, advantages, size):
    """Of most portions of 60 tokens none is looked at."""
    for name, value in {"LOOKED": 100, "TRIED": 100, "portions": lambda rows: portions(rows, size=size)}.items():
        monkeypatch.setattr(inspection, name, value)
    both = -np.random.default_rng(1).random((60, 2, 20))
    rows = [{"rollout_log_probs": mu, "log_probs": pi, **advantages} for mu, pi in both.tolist()]
    log = written(tmp_path / "log.jsonl", rows)
    report = inspection.inspect([log], method=get_method("grpo")).report
    assert (report["responses"], report["tokens"]) == (60, 1200)
    assert 5 < report["looked_at"]["responses"] < 30
    assert "nan" not in [row["kind"] for row in report["artefacts"]], "of advantages that are not known, or not read"


def test_one_long_response_among_short_ones_is_padded_with_few_of_them():
    rows = [Row(np.full(n, -1.0), np.full(n, -1.0)) for n in [*[5] * 300, 4000, *[5] * 300]]
    parts = list(portions(rows, size=4000))
    assert sum(len(part.lengths) for part in parts) == 601
    assert max(len(part.lengths) * part.lengths.max() for part in parts) <= 8 * 4000 + 4000
