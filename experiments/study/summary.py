"""What the runs say: scores with intervals for each arm, comparisons, and the thresholds that tuning chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.study.plan import Params, StudyConfig, candidate_label, grid, run_config
from experiments.study.stats import (
    area_under_curve,
    bootstrap,
    has_collapsed,
    holm,
    iqm,
    paired_difference,
    paired_p,
    permutation_p,
    probability_of_improvement,
    share,
    worst_late,
)
from experiments.study.table import Curve

POOLED = "all settings"
SCORES = ("final", "area", "worst")
DIGITS = 4  # in files


@dataclass(frozen=True)
class Score:
    """One run in four numbers: held-out accuracy at the end; mean and lowest late height of the training reward."""

    seed: int
    final: float
    area: float
    worst: float
    collapsed: bool
    diverged: bool


def score(curve: Curve, collapse: float) -> Score:
    """A run's score; `collapse` is the share of the starting accuracy below which it has collapsed."""
    _, accuracy = curve.series("accuracy")
    x, reward = curve.series("reward")
    return Score(
        seed=curve.key[3],
        final=float(accuracy[-1]),
        area=area_under_curve(x, reward),
        worst=worst_late(x, reward),
        collapsed=has_collapsed(float(accuracy[0]), float(accuracy[-1]), collapse),
        diverged=curve.status == "diverged",
    )


@dataclass(frozen=True)
class Group:
    """The runs of one arm in one setting, by seed."""

    setting: str
    arm: str
    method: str
    params: Params
    curves: list[Curve]
    scores: list[Score]

    def of(self, name: str) -> np.ndarray:
        return np.array([getattr(score, name) for score in self.scores], dtype=float)


def groups(study: StudyConfig, curves: Sequence[Curve], part: str) -> list[Group]:
    """The runs of a part, by setting and arm, in the order of the file; seeds that it no longer has do not count."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        if curve.key[0] == part and curve.key[3] in study.parts[part].seeds.all:
            found.setdefault(curve.key[1:3], []).append(curve)
    result = []
    for (setting, arm), own in found.items():
        own = sorted(own, key=lambda curve: curve.key[3])
        scores = [score(curve, study.collapse) for curve in own]
        result.append(Group(setting, arm, own[0].method, own[0].params, own, scores))
    settings = list(study.parts[part].settings)
    return sorted(result, key=lambda group: settings.index(group.setting))


def choose(study: StudyConfig, curves: Sequence[Curve]) -> dict[str, dict[str, Params]]:
    """The winning parameters of every tuning part whose runs are all there, by part and method.

    The highest IQM of `study.choose` over the seeds wins; of equals the one that the file lists first.
    """
    winners: dict[str, dict[str, Params]] = {}
    for name, part in study.parts.items():
        if not part.tunes:
            continue
        by_arm = {group.arm: group for group in groups(study, curves, name)}
        if sum(len(group.scores) for group in by_arm.values()) < len(grid(study, name, {})):
            continue
        winners[name] = {
            arm.method: max(
                arm.candidates, key=lambda params: float(iqm(by_arm[candidate_label(label, params)].of(study.choose)))
            )
            for label, arm in part.arms.items()
        }
    return winners


def summarise(study: StudyConfig, curves: Sequence[Curve]) -> dict[str, Any]:
    """Everything that tables and figures say, as plain data: scores by arm, comparisons, winners, seconds."""
    parts: dict[str, Any] = {}
    seen: set[str] = set()
    for name, part in study.parts.items():
        found = groups(study, curves, name)
        runs = {curve.run for group in found for curve in group.curves}
        if not runs - seen:  # not begun: all that is there was run for earlier parts
            continue
        seen |= runs
        parts[name] = {
            "title": part.title,
            "question": part.question,
            "preset": study.preset,
            "iterations": int(max(curve.values["iteration"].max() for group in found for curve in group.curves)),
            "seeds": part.seeds.count,
            "rows": [_row(found, group.setting, group.arm) for group in found] + _pooled_rows(found),
            "pairs": _compared(found, part.pairs),
        }
    once = {curve.run: curve for curve in curves}.values()
    evaluated = run_config(study, []).eval
    return {
        "study": study.name,
        "choose": study.choose,
        "collapse": study.collapse,
        "held_out": {"problems": evaluated.problems, "samples": evaluated.samples},
        "runs": len(once),
        "seconds": round(sum(float(np.nansum(curve.values["seconds"])) for curve in once), 1),
        "winners": choose(study, curves),
        "missing": _missing(study, curves),
        "parts": parts,
    }


def _missing(study: StudyConfig, curves: Sequence[Curve]) -> dict[str, tuple[int, int]]:
    """Of each part that is not whole, the cells still to be run and all of its cells."""
    missing = {}
    for name, part in study.parts.items():
        arms = sum(max(1, len(arm.candidates)) for arm in part.arms.values())
        planned = arms * len(part.settings) * part.seeds.count
        left = planned - sum(len(group.curves) for group in groups(study, curves, name))
        if left:
            missing[name] = left, planned
    return missing


def _matching(found: Sequence[Group], setting: str, arm: str) -> list[Group]:
    return [group for group in found if group.arm == arm and setting in (group.setting, POOLED)]


def _row(found: Sequence[Group], setting: str, arm: str) -> dict[str, Any]:
    """One arm in one setting, or in all of them, which are then the strata."""
    own = _matching(found, setting, arm)

    def mean(name: str) -> float | None:
        values = np.concatenate([curve.series(name)[1] for group in own for curve in group.curves])
        return float(values.mean()) if len(values) else None

    runs = sum(len(group.scores) for group in own)
    return {
        "setting": setting,
        "arm": arm,
        "method": own[0].method,
        "same_runs_as": twins([group for group in found if setting in (group.setting, POOLED)]).get(arm, ""),
        "runs": runs,
        **{name: asdict(bootstrap([group.of(name) for group in own])) for name in SCORES},
        "collapsed": asdict(share(sum(int(group.of("collapsed").sum()) for group in own), runs)),
        "diverged": sum(int(group.of("diverged").sum()) for group in own),
        "masked": mean("masked"),
        "masked_prefix_only": mean("masked_prefix_only"),
        "gated": mean("gated"),
        "drift": mean("drift"),
        "seconds_per_run": float(np.mean([np.nansum(c.values["seconds"]) for group in own for c in group.curves])),
    }


def twins(found: Sequence[Group]) -> dict[str, str]:
    """Arms with the very same runs as an earlier one, and that one: tuning may choose what was the default already."""
    runs: dict[str, list[str]] = {}
    for group in found:
        runs.setdefault(group.arm, []).extend(curve.run for curve in group.curves)
    first: dict[tuple[str, ...], str] = {}
    return {arm: earlier for arm, own in runs.items() if (earlier := first.setdefault(tuple(own), arm)) != arm}


def _pooled_rows(found: Sequence[Group]) -> list[dict[str, Any]]:
    settings = {group.setting for group in found}
    arms = dict.fromkeys(group.arm for group in found)
    everywhere = [arm for arm in arms if {group.setting for group in found if group.arm == arm} == settings]
    return [_row(found, POOLED, arm) for arm in everywhere] if len(settings) > 1 else []


def _compared(found: Sequence[Group], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The first of each pair against the second, setting by setting and pooled, by every score.

    `p` is of the final accuracy, corrected for the number of comparisons of the setting; `paired_p` is not corrected.
    """
    settings = list(dict.fromkeys(group.setting for group in found))
    compared = []
    for setting in [*settings, *([POOLED] if len(settings) > 1 else [])]:
        family = []
        for first, second in pairs:
            one, other = _matching(found, setting, first), _matching(found, setting, second)
            row: dict[str, Any] = {"setting": setting, "first": first, "second": second}
            for name in SCORES:
                x, y = _aligned(one, other, name)
                if x:
                    row[name] = asdict(probability_of_improvement(x, y))
                    row[f"{name}_difference"] = asdict(paired_difference(x, y))
                    row |= {"p": permutation_p(x, y), "paired_p": paired_p(x, y)} if name == "final" else {}
            if "final" in row:
                family.append(row)
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p"] = p
        compared += family
    return compared


def _aligned(first: list[Group], second: list[Group], name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A score of both in each setting that both have, over the seeds that both have."""
    strata: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for one in first:
        for other in second:
            values = [{score.seed: getattr(score, name) for score in group.scores} for group in (one, other)]
            seeds = sorted(values[0].keys() & values[1].keys())
            if one.setting == other.setting and seeds:
                for side, own in zip(strata, values, strict=True):
                    side.append(np.array([own[seed] for seed in seeds]))
    return strata


def rounded(value: Any) -> Any:
    """Plain lists and numbers of four digits: the same results are the same file, whatever library summed them up."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS) + 0.0  # no -0.0
    return value
