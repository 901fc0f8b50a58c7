"""The numbers in each figure, as plain data: what is drawn is this and nothing else; it is kept beside the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.study.claims import TOLD_NOTHING, verdict
from experiments.study.plan import StudyConfig, candidate_label
from experiments.study.stats import bootstrap_band, iqm, performance_profile
from experiments.study.summary import POOLED, SCORES, Group, groups, rounded, twins
from experiments.study.table import Curve

Plot = dict[str, Any]
MOST_LINES = 4  # in one panel; more arms get a panel a family
MOST_ARMS = 8  # in one figure of curves
MASKS = {
    "masked": "masked tokens (share)",
    "masked_prefix_only": "masked by the budget alone (share)",
    "delta_b": r"effective budget $\delta_b$ (TV a token)",
}
CERTIFICATE = {
    "surrogate": "surrogate gain $L'$ (reward)",
    "gain_low": "gain that is certain (reward)",
    "drift": r"drift: mean $|\log \pi - \log \mu|$ (nats)",
}
THRESHOLDS = np.linspace(0, 1, 51)


def plots(study: StudyConfig, curves: Sequence[Curve], summary: dict[str, Any]) -> dict[str, Plot]:
    """Every figure that the results carry, by file name without its ending."""
    found: dict[str, Plot] = {}
    for name, part in summary["parts"].items():
        settings, own = study.parts[name], groups(study, curves, name)
        reference = next(iter(settings.compare), "")
        best = {
            candidate_label(label, summary["winners"][name][arm.method])
            for label, arm in settings.arms.items()
            if name in summary["winners"]
        }
        found[f"{name}-scores"] = scores_plot(part, own, best, reference)
        if not settings.tunes and len({group.arm for group in own}) <= MOST_ARMS:
            found[f"{name}-curves"] = lines_plot(part["title"], own, {"reward": "mean training reward"}, reference)
        if part["pairs"]:
            found[f"{name}-improvement"] = improvement_plot(part)
        if "profile" in settings.draw:
            found[f"{name}-profile"] = profile_plot(part["title"], own)
        if "masks" in settings.draw:
            found[f"{name}-masks"] = lines_plot(part["title"], [g for g in own if g.method != "none"], MASKS)
        if "certificate" in settings.draw:
            found[f"{name}-certificate"] = lines_plot(part["title"], own, CERTIFICATE)
    return {name: rounded(plot) for name, plot in found.items() if plot.get("panels", True)}


def scores_plot(part: dict[str, Any], found: Sequence[Group], chosen: set[str], reference: str = "") -> Plot:
    """Each run's scores, their IQM and the share of collapsed runs with intervals, by setting and arm.

    Of several arms of one method the chosen one is drawn full, or the reference where all are of one method.
    """
    runs = {(group.setting, group.arm): {name: group.of(name) for name in SCORES} for group in found}
    kept = ("setting", "arm", "method", "runs", *SCORES, "collapsed")
    full = chosen or ({reference} if len({group.method for group in found}) == 1 else set())
    rows = [
        {key: row[key] for key in kept}
        | {"each": runs[row["setting"], row["arm"]], "chosen": row["arm"] in chosen, "full": row["arm"] in full}
        for row in part["rows"]
        if row["setting"] != POOLED
    ]
    return {"kind": "scores", "title": part["title"], "rows": rows}


def lines_plot(title: str, found: Sequence[Group], names: dict[str, str], reference: str = "") -> Plot:
    """IQM over seeds by iteration with pointwise intervals: a panel for each number in each setting, or several."""
    settings = list(dict.fromkeys(group.setting for group in found))
    panels = []
    for setting in settings:
        arms = _arms([group for group in found if group.setting == setting])
        for name, label in names.items():
            lines = [_line(group, name) | {"same": same} for (group,), same in arms]
            lines = [line for line in lines if np.any(line["value"])]  # what is always zero says nothing
            panels += [{**panel, "setting": setting, "label": label} for panel in _panels(lines, reference)]
    return {"kind": "lines", "title": title, "panels": panels}


def _panels(lines: list[Plot], reference: str = "") -> list[Plot]:
    """All lines in one panel if they are few; else a panel a family beside no mask, or an arm beside the reference."""
    if len(lines) <= MOST_LINES:
        return [{"name": "", "lines": lines}] if lines else []
    beside = [line for line in lines if line["method"] == "none"]
    others = [line for line in lines if line not in beside]
    families: dict[str, list[Plot]] = {}
    for line in others:
        families.setdefault(line["method"].split("-")[0], []).append(line)
    if len(families) > 1:
        return [
            {"name": own[0]["arm"].partition(",")[0], "lines": [*beside, *own]}
            for own in families.values()
        ]
    beside = [line for line in lines if line["arm"] == reference] or lines[:1]
    return [{"name": line["arm"], "lines": [*beside, line]} for line in lines if line not in beside]


def _arms(found: Sequence[Group]) -> list[tuple[list[Group], list[str]]]:
    """Each arm's groups, with the later arms of the very same runs, which would hide it."""
    same = twins(found)
    return [
        ([group for group in found if group.arm == arm], [later for later, earlier in same.items() if earlier == arm])
        for arm in dict.fromkeys(group.arm for group in found)
        if arm not in same
    ]


def _line(group: Group, name: str) -> Plot:
    """The iterations at which every run of the group has the number."""
    table = np.stack([curve.values[name] for curve in group.curves])
    whole = ~np.isnan(table).any(0)
    line: Plot = {"arm": group.arm, "method": group.method, "x": [], "value": [], "low": [], "high": []}
    if whole.any():
        middle, low, high = bootstrap_band([table[:, whole]], lambda draws: iqm(draws, axis=1), resamples=1000)
        line |= {"x": group.curves[0].values["iteration"][whole], "value": middle, "low": low, "high": high}
    return line


def profile_plot(title: str, found: Sequence[Group]) -> Plot:
    """Share of runs whose final accuracy is above each threshold."""
    lines = []
    for own, same in _arms(found):
        middle, low, high = bootstrap_band(
            [group.of("final") for group in own], lambda draws: performance_profile(draws, THRESHOLDS), resamples=1000
        )
        line: Plot = {"arm": own[0].arm, "method": own[0].method, "same": same}
        lines.append(line | {"x": THRESHOLDS, "value": middle, "low": low, "high": high})
    return {"kind": "profile", "title": title, "panels": _panels(lines)}


def improvement_plot(part: dict[str, Any]) -> Plot:
    """Probability that the first arm of each pair does better than the second, with intervals and verdicts."""
    kept = ("setting", "first", "second", "final", "area")
    rows = [
        {key: pair[key] for key in kept} | {"told_apart": verdict(pair) != TOLD_NOTHING} for pair in part["pairs"]
    ]
    return {"kind": "improvement", "title": part["title"], "rows": rows}
