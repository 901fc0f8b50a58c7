"""What the runs say: scores with intervals for each arm, comparisons, and the thresholds that tuning chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from experiments.study.plan import Params, StudyConfig, candidate_label, grid, run_config
from experiments.study.stats import (
    Interval,
    bootstrap,
    holm,
    iqm,
    paired_difference,
    paired_p,
    permutation_p,
    probability_of_improvement,
    seeds_needed,
    share,
)
from experiments.study.table import AROUND, SCORES, scores

POOLED = "all settings"
HEADLINE = "headline"  # the part that the pages tell first
LOWER = ("reach",)  # better where they are lower
PRIMARY = SCORES[0]  # the only measure that gives verdicts
DIGITS = 4  # in files
SIGNIFICANT = 0.05
TOLD_NOTHING = "not told apart"


def runs_of(study: StudyConfig, rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The scores of a part's runs, by setting in the order of the file, then by arm, then by seed.

    Seeds that the part no longer has do not count.
    """
    own = rows[(rows["part"] == part) & rows["seed"].isin(study.parts[part].seeds.all)]
    found = scores(own)
    order = {name: found[name].map({x: i for i, x in enumerate(known)}) for name, known in (
        ("setting", study.parts[part].settings), ("arm", found["arm"].unique()), ("seed", study.parts[part].seeds.all)
    )}  # fmt: skip
    return found.iloc[np.lexsort([order["seed"], order["arm"], order["setting"]])].reset_index(drop=True)


def choose(study: StudyConfig, rows: pd.DataFrame) -> dict[str, dict[str, Params]]:
    """The winning parameters of every tuning part whose runs are all there, by part and method.

    The highest IQM of `study.choose` over the seeds wins; of equals the one that the file lists first.
    """
    winners: dict[str, dict[str, Params]] = {}
    for name, part in study.parts.items():
        if not part.tunes:
            continue
        found = runs_of(study, rows, name)
        if len(found) < len(grid(study, name, {})):
            continue
        centres = {arm: float(iqm(own[study.choose].to_numpy())) for arm, own in found.groupby("arm")}
        winners[name] = {
            arm.method: max(arm.candidates, key=lambda params: centres[candidate_label(label, params)])
            for label, arm in part.arms.items()
        }
    return winners


def summarise(study: StudyConfig, rows: pd.DataFrame) -> dict[str, Any]:
    """Everything that tables and figures say, as plain data: scores by arm, comparisons, winners, seconds."""
    parts: dict[str, Any] = {}
    missing: dict[str, tuple[int, int]] = {}  # of each part that is not whole: cells still to be run, all of its cells
    seen: set[str] = set()
    for name, part in study.parts.items():
        found = runs_of(study, rows, name)
        planned = sum(max(1, len(arm.candidates)) for arm in part.arms.values()) * len(part.settings) * part.seeds.count
        if len(found) < planned:
            missing[name] = planned - len(found), planned
        runs = set(found["run"])
        if not runs - seen:  # not begun: all that is there was run for earlier parts
            continue
        seen |= runs
        own = rows[(rows["part"] == name) & rows["seed"].isin(part.seeds.all)]
        parts[name] = {
            "title": part.title,
            "question": part.question,
            "preset": study.preset,
            "iterations": int(own["iteration"].max()),
            "seeds": part.seeds.count,
            "rows": _rows(found, own),
            "pairs": _compared(found, part.pairs),
        }
    once = rows.drop_duplicates(["run", "iteration"])
    evaluated = run_config(study, []).eval
    return {
        "study": study.name,
        "choose": study.choose,
        "held_out": {"problems": evaluated.problems, "samples": evaluated.samples},
        "runs": once["run"].nunique(),
        "seconds": round(float(once["seconds"].sum()), 1),
        "winners": choose(study, rows),
        "missing": missing,
        "parts": parts,
    }


def verdict(pair: dict[str, Any]) -> str:
    """Better where both the interval of P(better) and the corrected permutation test exclude one half, by `PRIMARY`."""
    chance = Interval(**pair[PRIMARY])
    if pair["p"] < SIGNIFICANT and chance.low > 0.5:
        return f"{pair['first']} better"
    if pair["p"] < SIGNIFICANT and chance.high < 0.5:
        return f"{pair['second']} better"
    return TOLD_NOTHING


def leaning(pair: dict[str, Any]) -> str:
    """To whom the seeds lean without settling it: the differences of paired runs, uncorrected, pass a test."""
    if verdict(pair) != TOLD_NOTHING or pair["paired_p"] >= SIGNIFICANT:
        return ""
    return f", leaning to {pair['first'] if pair[f'{PRIMARY}_difference']['value'] > 0 else pair['second']}"


def rounded(value: Any) -> Any:
    """Plain lists and numbers of four digits: the same results are the same file, whatever library summed them up."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS) + 0.0  # no -0.0
    return value


def _rows(found: pd.DataFrame, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Each arm in each setting; and, of several settings, each arm that is in all of them, the settings its strata."""
    told = [_row(found, rows, *place) for place in found[["setting", "arm"]].drop_duplicates().itertuples(index=False)]
    in_settings = found.groupby("arm", sort=False)["setting"].nunique()
    if found["setting"].nunique() > 1:
        told += [_row(found, rows, POOLED, arm) for arm, n in in_settings.items() if n == found["setting"].nunique()]
    return told


def _row(found: pd.DataFrame, rows: pd.DataFrame, setting: str, arm: str) -> dict[str, Any]:
    own, logged = (_of(frame, setting, arm) for frame in (found, rows))
    means = logged[["masked", "masked_prefix_only", "gated", "drift"]].mean()
    return {
        "setting": setting,
        "arm": arm,
        "method": own["method"].iloc[0],
        "runs": len(own),
        **{name: asdict(bootstrap(_strata(own, name))) for name in SCORES},
        **{name: float(own[name].mean()) for name in AROUND},
        "lowest": float(own["final"].min()),
        "highest": float(own["final"].max()),
        "collapsed": asdict(share(int(own["collapsed"].sum()), len(own))),
        "diverged": int((own["status"] == "diverged").sum()),
        **{name: None if np.isnan(mean) else float(mean) for name, mean in means.items()},
        "seconds_per_run": float(own["seconds"].mean()),
    }


def _of(frame: pd.DataFrame, setting: str, arm: str | None = None) -> pd.DataFrame:
    """The rows of a setting, or of all; of an arm, or of all."""
    frame = frame if setting == POOLED else frame[frame["setting"] == setting]
    return frame if arm is None else frame[frame["arm"] == arm]


def _strata(own: pd.DataFrame, name: str) -> list[np.ndarray]:
    return [values.to_numpy(float) for _, values in own.groupby("setting", sort=False)[name]]


def _compared(found: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The first of each pair against the second, setting by setting and pooled, by every score.

    Scores are taken of the seeds that both have. `p` is of the primary measure, corrected for the number of comparisons
    of the setting; `paired_p` is not corrected.

    Raises:
        ValueError: two runs of a seed that began at different policies: what they differ in afterwards says nothing.
    """
    settings = list(found["setting"].unique())
    compared = []
    for setting in [*settings, *([POOLED] if len(settings) > 1 else [])]:
        family = []
        for first, second in pairs:
            both = _of(found, setting, first).merge(_of(found, setting, second), on=["setting", "seed"])
            if both.empty:
                continue
            _require_one_start(both, first, second)
            row: dict[str, Any] = {"setting": setting, "first": first, "second": second}
            for name in SCORES:
                x, y = _strata(both, f"{name}_x"), _strata(both, f"{name}_y")
                row[name] = asdict(probability_of_improvement(*((y, x) if name in LOWER else (x, y))))
                row[f"{name}_difference"] = asdict(paired_difference(x, y))
                if name == PRIMARY:
                    row |= {"p": permutation_p(x, y), "paired_p": paired_p(x, y), "seeds_needed": seeds_needed(x, y)}
            family.append(row)
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p"] = p
        compared += family
    return compared


def _require_one_start(both: pd.DataFrame, first: str, second: str) -> None:
    starts = [both[[f"before_{side}", f"greedy_before_{side}"]].to_numpy(float) for side in "xy"]
    for seed, x, y in zip(both["seed"], *starts, strict=True):
        if not np.array_equal(x, y, equal_nan=True):
            raise ValueError(
                f"{first} and {second}: the runs of seed {seed} began at different policies, whose sampled and greedy "
                f"accuracies are {x} and {y}: give the arm whose runs are an earlier part's `again: true`"
            )
