"""The paper's Tables 1, 3 and 4 as data, whether they agree with themselves, and a run's evaluation beside them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
TABLES = ("table1", "table3", "table4")
PROBLEMS = 30  # of each contest
GRADED = PROBLEMS * 16  # responses behind each number of Table 4: problems of a contest x samples
PRINTED = 0.01  # the last digit


def paper_table(name: str) -> dict[str, Any]:
    """`table1` (means), `table3` (configurations) or `table4` (per benchmark), as in its file."""
    table: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return table


def right_answers(printed: float) -> int | None:
    """How many of the 480 graded responses a printed percentage stands for, rounded or cut off; None if no number does.

    >>> right_answers(30.41), right_answers(28.75), right_answers(28.22)
    (146, 138, None)
    """
    return next((n for n in _neighbours(printed) if abs(100 * n / GRADED - printed) < PRINTED), None)


def inconsistencies() -> list[str]:
    """What in Tables 1 and 4 cannot be, or is not what its neighbours give: each as a sentence."""
    means, table = paper_table("table1")["rows"], paper_table("table4")
    found = []
    for model, rows in table["rows"].items():
        for method, values in rows.items():
            for benchmark, value in zip(table["benchmarks"], values, strict=True):
                if right_answers(value) is None:
                    near = " and ".join(f"{100 * n / GRADED:.2f}" for n in _neighbours(value))
                    found.append(f"{model} {method} {benchmark}: {value:.2f} is no share of {GRADED} ({near} are)")
            mean, printed = sum(values) / len(values), means[method][model]
            if f"{mean:.2f}" != f"{printed:.2f}":
                found.append(f"{model} {method}: the mean of {values} is {mean:.3f}, printed is {printed:.2f}")
    return found


def _neighbours(printed: float) -> tuple[int, int]:
    low = math.floor(printed / 100 * GRADED)
    return low, low + 1


@dataclass(frozen=True)
class Beside:
    """An evaluation of ours in per cent: benchmark -> (accuracy, standard error), and the mean of the three contests.

    `samples` is the number of answers to each problem. `mean` is None unless all three were evaluated.
    """

    label: str
    samples: int
    scores: dict[str, tuple[float, float | None]]
    mean: tuple[float, float | None] | None


def beside(path: str | Path) -> Beside:
    """What `minicppo eval --data` left: its results.json, the folder of it, or the run that was evaluated.

    Raises:
        FileNotFoundError: there are no results. ValueError: none of them is of a benchmark of the tables, or one is
        of a part of its problems.
    """
    path = Path(path)
    places = (path, path / "results.json", path / "eval" / "results.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{path} holds no results of an evaluation: first minicppo eval {path} --data aime24,aime25,aime26"
        )
    results = json.loads(file.read_text())
    scores = {name: _percent(score) for name, score in results["data"].items()}
    benchmarks = paper_table("table4")["benchmarks"]
    if not scores.keys() & set(benchmarks):
        raise ValueError(f"{file} has results on {', '.join(scores)}, and the paper's are on {', '.join(benchmarks)}")
    for name in benchmarks:
        if name in scores and (n := results["data"][name].get("problems")) != PROBLEMS:
            raise ValueError(
                f"{file}: {name} was tried on {n} of its {PROBLEMS} problems, which is no score on {name}: evaluate all"
            )
    contests = [scores.get(name) for name in benchmarks]
    mean = None
    if all(contests):
        errors = [error for _, error in filter(None, contests)]
        joint = None if None in errors else math.hypot(*[error or 0.0 for error in errors]) / len(errors)
        mean = sum(value for value, _ in filter(None, contests)) / len(contests), joint
    return Beside(results["settings"]["model"], results["settings"]["samples"], scores, mean)


def _percent(score: dict[str, Any]) -> tuple[float, float | None]:
    error = score["accuracy_se"]
    return 100 * score["accuracy"], None if error is None else 100 * error
