"""The study's page and the README's table, written from summary.json; no sentence in them is written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minicppo.report.study.stats import Interval

POOLED = "all settings"
HEADLINE = "headline"
COLUMNS = ("final accuracy", "mean reward", "lowest late reward", "collapsed", "masked (%)")


def study_table(results: Path) -> str:
    """The headline's table and comparisons for the README; a line saying how to make them where there are none yet."""
    path = results / "summary.json"
    if not path.is_file():
        return "No results yet: `minicppo study configs/study.yaml` makes them."
    summary = json.loads(path.read_text(encoding="utf-8"))
    part = summary["parts"].get(HEADLINE)
    if part is None:
        return "No headline yet: `minicppo study configs/study.yaml --only tune --only headline` makes it."
    return "\n\n".join([table(part), comparisons(part), legend(summary)])


def page(summary: dict[str, Any], command: str, pictures: Iterable[str]) -> str:
    """results/README.md: what was asked, what came out, how to make it again."""
    machine, pictures = summary["machine"], set(pictures)
    hours = summary["seconds"] / 3600
    parts = [
        f"# Results of `{command}`",
        f"{summary['runs']} runs, {hours:.1f} hours of one thread on {machine['processor']} "
        f"({machine['device']}), torch {machine['torch']}, transformers {machine['transformers']}, Python "
        f"{machine['python']}. This page, `summary.json` and the figures are drawn from `study.parquet`; beside each "
        "figure lies the data in it.",
        f"```bash\n{command}                  # run what is missing, and write everything again\n"
        f"{command} --report-only    # from the table alone\n```",
        legend(summary),
    ]
    for name, part in summary["parts"].items():
        parts += [f"## {part['title']}", part["question"], table(part)]
        if part["pairs"]:
            parts.append(comparisons(part))
        chosen = summary["winners"].get(name)
        if chosen:
            told = "; ".join(f"`{method}` {_params(params)}" for method, params in chosen.items())
            parts.append(f"Chosen by the highest interquartile mean of `{summary['choose']}`: {told}.")
        shown = [picture for picture in sorted(pictures) if picture.rpartition("-")[0] == name]
        parts += [f"![{picture}](figures/{picture}.png)" for picture in shown]
    return "\n\n".join(parts) + "\n"


def legend(summary: dict[str, Any]) -> str:
    """What the columns mean."""
    return (
        "Interquartile means over seeds with 95 % bootstrap intervals (collapsed: Wilson's). Final accuracy: sampled, "
        "on held-out problems, after the last iteration. Mean reward and lowest late reward: of the rollout batches, "
        "over training and in its second half. Collapsed: final accuracy below "
        f"{summary['collapse']:g} times the accuracy that the run started from. Seeds share problems and noise between "
        "methods; differences are paired by seed."
    )


def table(part: dict[str, Any]) -> str:
    """One line an arm (in each setting, and pooled)."""
    several = len({row["setting"] for row in part["rows"]}) > 1
    head = [*(["setting"] if several else []), "arm", "runs", *COLUMNS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in part["rows"]:
        cells = [*([row["setting"]] if several else []), row["arm"], str(row["runs"])]
        cells += [Interval(**row[name]).text() for name in ("final", "area", "worst", "collapsed")]
        cells.append("-" if row["masked"] is None else f"{100 * row['masked']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparisons(part: dict[str, Any]) -> str:
    """Each pair of arms, and whether the seeds tell the two apart."""
    several = len({pair["setting"] for pair in part["pairs"]}) > 1
    head = [*(["setting"] if several else []), "pair", "P(better final)", "difference in final accuracy", "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for pair in part["pairs"]:
        cells = [*([pair["setting"]] if several else []), f"{pair['first']} over {pair['second']}"]
        cells += [Interval(**pair["final"]).text(), Interval(**pair["final_difference"]).text()]
        lines.append("| " + " | ".join([*cells, verdict(pair)]) + " |")
    return "\n".join(lines)


def verdict(pair: dict[str, Any]) -> str:
    """In words: better or worse where the interval of P(better) excludes one half, else not told apart."""
    chance = Interval(**pair["final"])
    if chance.low > 0.5:
        return f"{pair['first']} better"
    if chance.high < 0.5:
        return f"{pair['second']} better"
    return "not told apart"


def _params(params: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in params.items())
