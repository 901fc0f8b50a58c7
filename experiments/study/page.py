"""The study's page and the README's block, written from summary.json; no sentence in them is written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.study.claims import arm_by_arm, claims, leaning, short_p, verdict
from experiments.study.stats import Interval
from experiments.study.summary import POOLED

HEADLINE, REPLICATION, SCALED = "headline", "replication", "horizon-scaled"
PAIRED = "Differences are means over runs paired by seed, not differences of the interquartile means."
LEGEND = (
    "Final accuracy: sampled, on held-out problems, after the last iteration. Mean reward and lowest late reward: of "
    "the rollout batches, over training and in its second half. Paired runs share problems and noise. Intervals of few "
    "runs are too narrow: of five they cover in about 89 % of cases, of three in 74 %. P(better) = 1.00 [1.00, 1.00] "
    "says that every run of one beat every run of the other."
)
COLUMNS = {
    "final": "final accuracy",
    "area": "mean reward",
    "worst": "lowest late reward",
    "collapsed": "collapsed",
}


def study_table(results: Path) -> str:
    """What the headline says, and its table, for the README; how to make them where there are none yet."""
    path = results / "summary.json"
    if not path.is_file():
        return "No results yet: `python -m experiments study configs/study.yaml` makes them."
    summary = json.loads(path.read_text(encoding="utf-8"))
    part = summary["parts"].get(HEADLINE)
    if part is None:
        return "No headline yet: `python -m experiments study configs/study.yaml --only tune --only headline` makes it."
    problems = summary["held_out"]["problems"]
    note = (
        f"{size(summary)}. Interquartile means over seeds with 95 % bootstrap intervals; a collapsed run ends below "
        f"{summary['collapse']:g} times the accuracy at the start. {PAIRED} p: a permutation test after Holm's "
        "correction; leaning: only the differences of paired runs, taken alone, pass one that deals out their signs. "
        f"The table: one task, one starting policy, the same {problems} held-out problems for all."
    )
    return "\n\n".join([in_short(summary), table(part, ("final", "collapsed")), note])


def part_tables(results: Path, name: str) -> str:
    """One part by setting, and its comparisons over all settings, for a page beside the study's own."""
    path = results / "summary.json"
    if not path.is_file():
        return "No results yet."
    summary = json.loads(path.read_text(encoding="utf-8"))
    part = summary["parts"][name]
    over_all = {**part, "pairs": [pair for pair in part["pairs"] if pair["setting"] == POOLED]}
    note = f"{size(summary)}. {conditions(summary)}"
    return "\n\n".join([table(part, ("final", "collapsed")), comparisons(over_all), note])


def page(summary: dict[str, Any], command: str, pictures: Iterable[str]) -> str:
    """results/README.md: what was asked, what came out, how to make it again."""
    pictures = list(pictures)
    parts = [
        f"# Results of `{command}`",
        f"{size(summary)} on {'; and on '.join(map(_machine, summary['machines']))}. This page, `summary.json` and the "
        "figures are drawn from `study.parquet`; beside each figure lies the data in it.",
        f"```bash\n{command}   # runs what the table lacks; --again runs everything, --only NAME one part\n"
        f"{command} --report-only   # page and figures again, from the table alone\n```",
        _missing(summary, command),
    ]
    if HEADLINE in summary["parts"]:
        parts += ["## In short", in_short(summary)]
    parts += ["## How to read the numbers", conditions(summary), LEGEND]
    for name, part in summary["parts"].items():
        left, planned = summary["missing"].get(name, (0, 0))
        so_far = f"So far {planned - left} of {planned} runs." if left else ""
        parts += [f"## {part['title']}", f"{part['question']} {so_far}".strip(), table(part)]
        if part["pairs"]:
            parts.append(comparisons(part))
        parts.append(_chosen(summary, name))
        shown = [picture for picture in pictures if picture.rpartition("-")[0] == name]
        parts += [f"![{picture}](figures/{picture}.png)" for picture in shown]
    return "\n\n".join(part for part in parts if part) + "\n"


def in_short(summary: dict[str, Any]) -> str:
    """What the headline claims, and what some other parts do once they are whole, one a line."""
    parts = summary["parts"]
    whole = {name: part for name, part in parts.items() if name not in summary["missing"]}
    elsewhere = [part for name, part in parts.items() if name not in (HEADLINE, REPLICATION, SCALED)]
    told = claims(parts[HEADLINE], whole.get(REPLICATION), elsewhere)
    if SCALED in whole:
        told.append(arm_by_arm(whole[SCALED]))
    return "\n".join(f"- {sentence}" for sentence in told)


def size(summary: dict[str, Any]) -> str:
    """How much work the results are."""
    return f"{summary['runs']} runs, {summary['seconds'] / 3600:.1f} hours of one thread"


def conditions(summary: dict[str, Any]) -> str:
    """What the intervals are about, and what they are not: the caveats that a table cannot carry."""
    held = summary["held_out"]
    tuned = " ".join(_chosen(summary, name) for name in summary["winners"])
    samples = "one sample" if held["samples"] == 1 else f"{held['samples']} samples"
    several = "Each part ran on one machine; on another the same start rounds differently. "
    return (
        "Interquartile means over seeds with 95 % bootstrap intervals; collapsed: below "
        f"{summary['collapse']:g} times the accuracy at the start, with Wilson's interval. {PAIRED} Better: the "
        "interval of P(better) excludes one half, and so does a permutation test at the 5 % level after Holm's "
        "correction. Leaning: only the differences of paired runs, taken alone, pass one that deals out their signs. "
        "Three runs against three pass neither, whatever they say. All "
        f"runs are evaluated on the same {held['problems']} held-out problems, {samples} each, and "
        "start from the same policy unless a part says otherwise: the intervals are about training seeds, not about "
        f"other problems or starts. {several if len(summary['machines']) > 1 else ''}{tuned}"
    ).strip()


def table(part: dict[str, Any], scores: Iterable[str] = tuple(COLUMNS)) -> str:
    """One line an arm (in each setting, and pooled)."""
    several, scores = len({row["setting"] for row in part["rows"]}) > 1, list(scores)
    head = [*(["setting"] if several else []), "arm", "runs", *(COLUMNS[name] for name in scores), "masked (%)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in part["rows"]:
        arm = row["arm"] + (f" (the runs of {row['same_runs_as']})" if row["same_runs_as"] else "")
        cells = [*([row["setting"]] if several else []), arm, str(row["runs"])]
        cells += [Interval(**row[name]).text() for name in scores]
        cells.append(_masked(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparisons(part: dict[str, Any]) -> str:
    """Each pair of arms, and whether the seeds tell the two apart."""
    several = len({pair["setting"] for pair in part["pairs"]}) > 1
    head = [*(["setting"] if several else []), "pair", "P(better final)", "difference in final", "p", "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for pair in part["pairs"]:
        cells = [*([pair["setting"]] if several else []), f"{pair['first']} over {pair['second']}"]
        cells += [Interval(**pair["final"]).text(), Interval(**pair["final_difference"]).text(), short_p(pair["p"])]
        lines.append("| " + " | ".join([*cells, verdict(pair) + leaning(pair)]) + " |")
    return "\n".join(lines)


def _chosen(summary: dict[str, Any], name: str) -> str:
    """What a tuning part chose."""
    winners = summary["winners"].get(name)
    if not winners:
        return ""
    told = "; ".join(f"`{method}` {_params(params)}" for method, params in winners.items())
    seeds, rows = summary["parts"][name]["seeds"], summary["parts"][name]["rows"]
    tied = [", ".join(equals) for method in winners if len(equals := _best(rows, method, summary["choose"])) > 1]
    note = f" Equally high, and the first of them taken: {'; '.join(tied)}." if tied else ""
    return (
        f"Tuned: the candidate with the highest interquartile mean of `{summary['choose']}` over {seeds} seeds of its "
        f"own, out of {len(rows) // len(winners)} for each method: {told}.{note}"
    )


def _best(rows: list[dict[str, Any]], method: str, choose: str) -> list[str]:
    """The candidates of a method that score highest, all of them."""
    own = {row["arm"]: row[choose]["value"] for row in rows if row["method"] == method}
    return [arm for arm, value in own.items() if value == max(own.values())]


def _masked(row: dict[str, Any]) -> str:
    """The share of the tokens that were masked, or scaled down where the method does that instead."""
    if row["masked"] is None:
        return "-"
    return f"{100 * row['gated']:.2f} gated" if row["gated"] else f"{100 * row['masked']:.2f}"


def _missing(summary: dict[str, Any], command: str) -> str:
    """The parts that are not there, or not yet whole."""
    if not summary["missing"]:
        return ""
    told = ", ".join(f"`{name}` ({left} of {of} runs)" for name, (left, of) in summary["missing"].items())
    return f"Still to be run: {told}, each by `{command} --only NAME`."


def _machine(machine: dict[str, Any]) -> str:
    kernels = f", {machine['kernels']} kernels" if "kernels" in machine else ""
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}, Python {machine['python']}"
    return f"{machine['processor']} ({machine['device']}{kernels}), {versions}"


def _params(params: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in params.items())
