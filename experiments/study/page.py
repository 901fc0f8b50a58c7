"""The tables of results/README.md and of the README, written from summary.json; the sentences round them are not.

A page is prose written by hand (a test checks its numbers) round blocks that stand between
`<!-- generated: NAME -->` and `<!-- end -->`: `runs`, `reading`, and one for each part of the study.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.study.summary import POOLED, Interval, leaning, verdict

BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
HEADLINE = "headline"
PAIRED = "Differences are means over runs paired by seed, not differences of the interquartile means."
LEGEND = (
    "Final accuracy: sampled, on held-out problems, after the last iteration. Mean reward and lowest late reward: of "
    "the rollout batches, over training and in its second half. Paired runs share problems and noise. Intervals of few "
    "runs are too narrow: of five they cover in about 89 % of cases, of three in 74 %. P(better) = 1.00 [1.00, 1.00] "
    "says that every run of one beat every run of the other."
)
COLUMNS = {"final": "final accuracy", "area": "mean reward", "worst": "lowest late reward", "collapsed": "collapsed"}


def page(written: str, summary: dict[str, Any], command: str, pictures: Iterable[str]) -> str:
    """results/README.md: what was `written` there (nothing, at first) with every block anew, and what it lacks."""
    parts, pictures = summary["parts"], list(pictures)
    text = written or "\n\n".join([
        f"# Results of `{command}`",
        _empty("runs"),
        f"```bash\n{command}   # runs what the table lacks; --again runs everything, --only NAME one part\n"
        f"{command} --report-only   # tables and figures again, from the table alone\n```",
        "## How to read the numbers",
        _empty("reading"),
    ])  # fmt: skip
    for name, part in parts.items():
        if f"<!-- generated: {name} -->" not in text:
            text = f"{text.rstrip()}\n\n## {part['title']}\n\n{_empty(name)}\n"
    blocks: dict[str, Callable[[], str]] = {
        "runs": lambda: _runs(summary, command),
        "reading": lambda: f"{conditions(summary)}\n\n{LEGEND}",
    }
    return filled(text, lambda name: blocks[name]() if name in blocks else _part(summary, name, pictures))


def filled(text: str, block: Callable[[str], str]) -> str:
    """A page with every block written anew by its name."""
    return BLOCK.sub(lambda found: f"{found[1]}{block(found[2])}\n{found[3]}", text)


def in_short(results: Path) -> str:
    """What is written on the page of the results under that heading."""
    return (results / "README.md").read_text(encoding="utf-8").partition("## In short\n\n")[2].partition("\n\n## ")[0]


def study_table(results: Path) -> str:
    """What the page says in short and the headline's table, for the README; how to make them where there are none."""
    path = results / "summary.json"
    if not path.is_file():
        return "No results yet: `python -m experiments study configs/study.yaml` makes them."
    summary = json.loads(path.read_text(encoding="utf-8"))
    problems = summary["held_out"]["problems"]
    note = (
        f"{size(summary)}. Interquartile means over seeds with 95 % bootstrap intervals; a collapsed run ends below "
        f"{summary['collapse']:g} times the accuracy at the start. {PAIRED} p: a permutation test after Holm's "
        "correction; leaning: only the differences of paired runs, taken alone, pass one that deals out their signs. "
        f"The table: one task, one starting policy, the same {problems} held-out problems for all."
    )
    return "\n\n".join([in_short(results), table(summary["parts"][HEADLINE], ("final", "collapsed")), note])


def part_tables(results: Path, name: str) -> str:
    """One part by setting, and its comparisons over all settings, for a page beside the study's own."""
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    part = summary["parts"][name]
    over_all = {**part, "pairs": [pair for pair in part["pairs"] if pair["setting"] == POOLED]}
    note = f"{size(summary)}. {conditions(summary)}"
    return "\n\n".join([table(part, ("final", "collapsed")), comparisons(over_all), note])


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
    scores = list(scores)
    rows = []
    for row in part["rows"]:
        arm = row["arm"] + (f" (the runs of {row['same_runs_as']})" if row["same_runs_as"] else "")
        cells = [Interval(**row[name]).text() for name in scores]
        rows.append([row["setting"], arm, str(row["runs"]), *cells, _masked(row)])
    return _markdown(["arm", "runs", *(COLUMNS[name] for name in scores), "masked (%)"], rows)


def comparisons(part: dict[str, Any]) -> str:
    """Each pair of arms, and whether the seeds tell the two apart."""
    rows = []
    for pair in part["pairs"]:
        told = [Interval(**pair[name]).text() for name in ("final", "final_difference")]
        over = f"{pair['first']} over {pair['second']}"
        rows.append([pair["setting"], over, *told, short_p(pair["p"]), verdict(pair) + leaning(pair)])
    return _markdown(["pair", "P(better final)", "difference in final", "p", "verdict"], rows)


def short_p(p: float) -> str:
    """Two digits, or below what the permutations can tell.

    >>> short_p(0.0004), short_p(0.034), short_p(1.0)
    ('< .001', '.034', '1')
    """
    return "< .001" if p < 0.001 else f"{p:.2g}".removeprefix("0") if p < 1 else "1"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table of rows that begin with their setting, which stands there only where there are several."""
    first = 0 if len({row[0] for row in rows}) > 1 else 1
    head = ["setting", *head][first:]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
                     + ["| " + " | ".join(row[first:]) + " |" for row in rows])  # fmt: skip


def _empty(name: str) -> str:
    return f"<!-- generated: {name} -->\n<!-- end -->"


def _runs(summary: dict[str, Any], command: str) -> str:
    """How much was run and on what, and the parts that are not there, or not yet whole."""
    told = ", ".join(f"`{name}` ({left} of {of} runs)" for name, (left, of) in summary["missing"].items())
    return (
        f"{size(summary)} on {'; and on '.join(map(_machine, summary['machines']))}. The tables here, `summary.json` "
        "and the figures are drawn from `study.parquet`; beside each figure lies the data in it."
    ) + (f"\n\nStill to be run: {told}, each by `{command} --only NAME`." if told else "")


def _part(summary: dict[str, Any], name: str, pictures: list[str]) -> str:
    """What was asked, what came out, and its figures."""
    if name not in summary["parts"]:
        return "Not run yet."
    part, (left, planned) = summary["parts"][name], summary["missing"].get(name, (0, 0))
    so_far = f"So far {planned - left} of {planned} runs." if left else ""
    told = [f"{part['question']} {so_far}".strip(), table(part)]
    told += [comparisons(part)] if part["pairs"] else []
    told.append(_chosen(summary, name))
    told += [f"![{picture}](figures/{picture}.png)" for picture in pictures if picture.rpartition("-")[0] == name]
    return "\n\n".join(text for text in told if text)


def _chosen(summary: dict[str, Any], name: str) -> str:
    """What a tuning part chose."""
    winners = summary["winners"].get(name)
    if not winners:
        return ""
    told = "; ".join(
        f"`{method}` {', '.join(f'{key} = {value}' for key, value in params.items())}"
        for method, params in winners.items()
    )
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


def _machine(machine: dict[str, Any]) -> str:
    kernels = f", {machine['kernels']} kernels" if "kernels" in machine else ""
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}, Python {machine['python']}"
    return f"{machine['processor']} ({machine['device']}{kernels}), {versions}"
