"""The committed study's numbers, computed again from the table by other code: plain Python, and SciPy's rank test."""

import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean

import pytest
from scipy.stats import mannwhitneyu

RESULTS = Path(__file__).resolve().parents[2] / "results"


def runs_of(part):
    """(setting, arm) -> seed -> [(iteration, accuracy, greedy, reward), ...]"""
    table = pytest.importorskip("pyarrow.parquet").read_table(RESULTS / "study.parquet", filters=[("part", "=", part)])
    found = defaultdict(lambda: defaultdict(list))
    for row in table.to_pylist():
        point = [row[name] for name in ("iteration", "accuracy", "greedy", "reward")]
        found[row["setting"], row["arm"]][row["seed"]].append(point)
    return found


def there(number):
    return number is not None and not math.isnan(number)


def measures(points):
    points = sorted(points)
    curve = [(i, accuracy) for i, accuracy, _, _ in points if there(accuracy)]
    rewards = [reward for *_, reward in points if there(reward)]
    steps = zip(curve, curve[1:], strict=False)
    late = rewards[len(rewards) // 5 :]
    reached = [i for i, accuracy in curve if accuracy >= 0.9]
    after = mean(accuracy for _, accuracy in curve[-5:])
    return {
        "area": sum((j - i) * (x + y) / 2 for (i, x), (j, y) in steps) / curve[-1][0],
        "worst": min(mean(late[k : k + 10]) for k in range(len(late) - 9)),
        "reach": reached[0] if reached else curve[-1][0] + 1,
        "final": after,
        "collapsed": after < curve[0][1],
        "before": curve[0][1],
        "greedy": mean([greedy for _, _, greedy, _ in points if there(greedy)][-5:]),
    }


def middle(values):
    cut = len(values) // 4
    return mean(sorted(values)[cut : len(values) - cut])


def test_the_numbers_of_the_headline_are_those_of_its_table():
    told = json.loads((RESULTS / "summary.json").read_text())["parts"]["headline"]
    scores = {arm: {seed: measures(run) for seed, run in runs.items()} for arm, runs in runs_of("headline").items()}
    for row in told["rows"]:
        own = list(scores[row["setting"], row["arm"]].values())
        assert row["runs"] == len(own)
        for name in ("area", "worst", "reach", "final"):
            assert row[name]["value"] == pytest.approx(middle([one[name] for one in own]), abs=1e-4), name
        for name in ("before", "greedy"):
            assert row[name] == pytest.approx(mean(one[name] for one in own), abs=1e-4)
        assert row["collapsed"]["value"] == pytest.approx(mean(one["collapsed"] for one in own), abs=1e-4)
    uncorrected = {}
    for pair in told["pairs"]:
        first, second = (scores[pair["setting"], pair[side]] for side in ("first", "second"))
        both = sorted(first.keys() & second.keys())
        x, y = ([side[seed]["area"] for seed in both] for side in (first, second))
        wins = mean((a > b) + (a == b) / 2 for a in x for b in y)
        assert pair["area"]["value"] == pytest.approx(wins, abs=1e-4)
        assert pair["area_difference"]["value"] == pytest.approx(mean(x) - mean(y), abs=1e-4)
        uncorrected[pair["first"], pair["second"]] = mannwhitneyu(x, y).pvalue
    ordered, so_far = sorted(uncorrected, key=uncorrected.get), 0.0
    for place, names in enumerate(ordered):  # Holm, step by step
        so_far = max(so_far, min(1.0, (len(ordered) - place) * uncorrected[names]))
        (pair,) = [pair for pair in told["pairs"] if (pair["first"], pair["second"]) == names]
        assert pair["p"] == pytest.approx(so_far, abs=0.06), names
