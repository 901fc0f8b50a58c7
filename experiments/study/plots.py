"""The numbers in each figure, as plain data: what is drawn is this and nothing else; it is kept beside the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.study.plan import StudyConfig
from experiments.study.stats import bootstrap_band, iqm
from experiments.study.summary import HEADLINE, POOLED, PRIMARY, rounded, runs_of
from experiments.study.table import CELL, SCORES, matrix

Plot = dict[str, Any]
MOST_LINES = 4  # in one panel; more arms get a panel a family
MOST_ARMS = 8  # in one figure of curves
ACCURACY = {"accuracy": "held-out accuracy (sampled)"}
MASKS = {
    "masked": "masked tokens (share)",
    "masked_prefix_only": "masked by the budget alone (share)",
    "delta_b": r"effective budget $\delta_b$ (TV a token)",
}
THRESHOLDS = np.linspace(0, 1, 51)


def plots(study: StudyConfig, rows: pd.DataFrame, summary: dict[str, Any]) -> dict[str, Plot]:
    """Every figure that the results carry, by file name without its ending."""
    found: dict[str, Plot] = {}
    for name, part in summary["parts"].items():
        settings, runs = study.parts[name], runs_of(study, rows, name)
        reference, title = next(iter(settings.compare), ""), part["title"]
        found[f"{name}-scores"] = scores_plot(part, runs)
        if not settings.tunes and runs["arm"].nunique() <= MOST_ARMS:
            found[f"{name}-curves"] = lines_plot(title, runs, rows, ACCURACY, reference)
        if name == HEADLINE:
            found[f"{name}-profile"] = profile_plot(title, runs)
            found[f"{name}-masks"] = lines_plot(title, runs[runs["method"] != "none"], rows, MASKS)
    return {name: rounded(plot) for name, plot in found.items() if plot.get("panels", True)}


def scores_plot(part: dict[str, Any], runs: pd.DataFrame) -> Plot:
    """Each run's scores, their IQM and the share of collapsed runs with intervals, by setting and arm."""
    by_arm = dict(iter(runs.groupby(["setting", "arm"])))
    kept = ("setting", "arm", "method", "runs", *SCORES, "collapsed")
    rows = []
    for row in part["rows"]:
        if row["setting"] != POOLED:
            own = by_arm[row["setting"], row["arm"]]
            rows.append({key: row[key] for key in kept} | {"each": {name: own[name].to_numpy() for name in SCORES}})
    return {"kind": "scores", "title": part["title"], "rows": rows}


def lines_plot(title: str, runs: pd.DataFrame, rows: pd.DataFrame, names: dict[str, str], reference: str = "") -> Plot:
    """IQM over seeds by iteration with pointwise intervals: a panel for each number in each setting, or several."""
    panels = []
    for setting, own in runs.groupby("setting", sort=False):
        for name, label in names.items():
            lines = []
            for (arm, method), drawn in own.groupby(["arm", "method"], sort=False):
                table = matrix(drawn[CELL].merge(rows, on=CELL), name)
                if table.to_numpy().any():  # what is always zero, or never there, says nothing
                    band = bootstrap_band([table.to_numpy().T], lambda draws: iqm(draws, axis=1), resamples=1000)
                    lines.append({"arm": arm, "method": method, "x": table.index.to_numpy(float)} | _ends(band))
            panels += [
                {**panel, "setting": setting, "label": label, "over": "iteration"}
                for panel in _panels(lines, reference)
            ]
    return {"kind": "lines", "title": title, "what": "interquartile mean of the seeds", "panels": panels}


def profile_plot(title: str, runs: pd.DataFrame) -> Plot:
    """Share of runs whose area is above each threshold."""

    def above(draws: np.ndarray) -> np.ndarray:
        return (draws[:, :, None] > THRESHOLDS).mean(1)

    lines = []
    for (arm, method), own in runs.groupby(["arm", "method"], sort=False):
        strata = [values.to_numpy() for _, values in own.groupby("setting", sort=False)[PRIMARY]]
        lines.append(
            {"arm": arm, "method": method, "x": THRESHOLDS} | _ends(bootstrap_band(strata, above, resamples=1000))
        )
    told = {"setting": "", "label": "share of runs above it", "over": "area under the held-out accuracy"}
    panels = [{**panel, **told} for panel in _panels(lines)]
    return {"kind": "lines", "title": title, "what": "shares of runs", "panels": panels}


def _ends(band: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Plot:
    return dict(zip(("value", "low", "high"), band, strict=True))


def _panels(lines: list[Plot], reference: str = "") -> list[Plot]:
    """All lines in one panel if they are few; else a panel a family beside no mask, or an arm beside the reference."""
    if len(lines) <= MOST_LINES:
        return [{"name": "", "lines": lines}] if lines else []
    beside = [line for line in lines if line["method"] == "none"]
    families: dict[str, list[Plot]] = {}
    for line in lines:
        if line not in beside:
            families.setdefault(line["method"].split("-")[0], []).append(line)
    if len(families) > 1:
        return [{"name": own[0]["arm"].partition(",")[0], "lines": [*beside, *own]} for own in families.values()]
    beside = [line for line in lines if line["arm"] == reference] or lines[:1]
    return [{"name": line["arm"], "lines": [*beside, line]} for line in lines if line not in beside]
