"""results/README.md, and what README.md says of it: written from summary.json, every sentence and every number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.study.stats import Interval, short
from experiments.study.summary import HEADLINE, POOLED, PRIMARY, TOLD_NOTHING, leaning, verdict

BARE = "none"  # the arm without a mask
PAIRED = "Differences are means over runs paired by seed, not differences of the interquartile means."
LEGEND = (
    "Before and after: held-out accuracy, greedy (the likeliest answer) and sampled; after is the mean of the last "
    "five evaluations. Area: mean height of the sampled accuracy's curve, the only measure that gives verdicts. Worst "
    "window: lowest mean training reward over ten iterations after the first fifth. To .9: iterations until an "
    "evaluation finds .9, one more than there are where none does. Collapsed: after is below before. Paired runs "
    "share problems and noise. Intervals of few runs are too narrow: of five they cover in about 89 % of cases, of "
    "three in 74 %. P(better) = 1.00 [1.00, 1.00] says that every run of one beat every run of the other."
)
COLUMNS = {"area": "area", "worst": "worst window", "reach": "to .9", "final": "sampled after"}
COLUMNS["collapsed"] = "collapsed"


def page(summary: dict[str, Any], command: str, pictures: Iterable[str]) -> str:
    """results/README.md."""
    parts, pictures = summary["parts"], list(pictures)
    told = [
        f"# Results of `{command}`",
        _runs(summary, command),
        f"```bash\n{command}   # runs what the table lacks; --again runs everything, --only NAME one part\n"
        f"{command} --report-only   # tables and figures again, from the table alone\n```",
        *(["## In short", in_short(summary)] if HEADLINE in parts else []),
        "## How to read the numbers",
        conditions(summary),
        LEGEND,
    ]
    for name, part in parts.items():
        told += [f"## {part['title']}", *_part(summary, name, pictures)]
    return "\n\n".join(told) + "\n"


def in_short(summary: dict[str, Any]) -> str:
    """What the headline says, a line for each question of the protocol that it answers."""
    part = summary["parts"][HEADLINE]
    rows = {row["arm"]: row for row in part["rows"]}
    one = next(iter(rows.values()))
    seeds = min(row["runs"] for row in rows.values())
    left, planned = summary["missing"].get(HEADLINE, (0, 0))
    likeliest = ", ".join(f"{arm} {_percent(row['greedy'])}" for arm, row in rows.items())
    sampled = ", ".join(f"{arm} {_percent(row['final']['value'])}" for arm, row in rows.items())
    fallen = ", ".join(f"{arm} {_fell(row)}" for arm, row in rows.items())
    lines = [
        f"**Is there something to learn?** Yes: before training {_percent(one['greedy_before'])} of the likeliest and "
        f"{_percent(one['before'])} of the sampled answers are right.",
        f"**Is it learned?** Likeliest answers right after training: {likeliest}; sampled: {sampled}.",
        f"**Does a mask matter?** Runs that end below their start: {fallen}.",
    ]
    against: dict[str, list[dict[str, Any]]] = {}
    for pair in part["pairs"]:
        title = "**A mask against none?**" if pair["second"] == BARE else "**The masks against each other?**"
        against.setdefault(title, []).append(pair)
    lines += [f"{title} {'; '.join(map(duel, pairs))}." for title, pairs in against.items()]
    others = [other for name, other in summary["parts"].items() if name != HEADLINE and other["pairs"]]
    beside = [other for other in others if not {row["arm"] for row in other["rows"]} <= rows.keys()]
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for other in beside:
        key = other["title"].partition(" at ")[0], *dict.fromkeys(row["arm"] for row in other["rows"])
        families.setdefault(key, []).append(other)
    lines += [_family(*key, parts=parts) if len(parts) > 1 else _elsewhere(parts[0]) for key, parts in families.items()]
    if left:
        lines.append(
            f"**How sure is this?** Preliminary: {planned - left} of {planned} runs are there, {seeds} of "
            f"{part['seeds']} seeds for every arm. What is not told apart here may be so by few seeds alone."
        )
    told = "\n".join(f"- {line}" for line in lines)
    same = [part, *(other for other in others if other not in beside)]
    return f"{told}\n\n{falls(same, list(rows))}" if len(same) > 1 else told


def falls(parts: Iterable[dict[str, Any]], arms: list[str]) -> str:
    """Parts that compare the same arms, a line for each setting: how many runs fell, and what is told apart."""
    lines = []
    for part in parts:
        for setting in dict.fromkeys(row["setting"] for row in part["rows"]):
            here = {row["arm"]: row for row in part["rows"] if row["setting"] == setting}
            apart = [
                _apart(pair) for pair in part["pairs"] if pair["setting"] == setting and verdict(pair) != TOLD_NOTHING
            ]
            cells = [_fell(here[arm]) if arm in here else "-" for arm in arms]
            lines.append(
                ["", part["title"] + f" ({setting})" * bool(setting), *cells, "; ".join(apart) or TOLD_NOTHING]
            )
    return _markdown(["runs that end below their start", *arms, "by area"], lines)


def duel(pair: dict[str, Any]) -> str:
    """Which curve lies higher, by how much, how often, and how surely."""
    said, first, second, equals = verdict(pair), pair["first"], pair["second"], "= " if pair["p"] >= 0.001 else ""
    return (
        f"{first} over {second} by {_difference(pair)}, ahead in {Interval(**pair[PRIMARY]).text()} of runs, "
        f"p {equals}{short_p(pair['p'])}: {said}{leaning(pair)}"
    )


def study_table(results: Path) -> str:
    """What the results say in short and the headline's table, for the README; how to make them where there are none."""
    path = results / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"parts": {}}
    if HEADLINE not in summary["parts"]:
        return "No results yet: `python -m experiments study configs/study.yaml` makes them."
    note = (
        f"{size(summary)}. Area: mean height of the held-out accuracy's curve over "
        f"{summary['parts'][HEADLINE]['iterations']} iterations; after: mean of the last five evaluations. "
        f"Interquartile means over seeds with 95 % bootstrap intervals. {PAIRED} p: a permutation test after Holm's "
        "correction; leaning: only the differences of paired runs, taken alone, pass one that deals out their signs. "
        f"The same {summary['held_out']['problems']} held-out problems for all."
    )
    return "\n\n".join([in_short(summary), table(summary["parts"][HEADLINE], (PRIMARY, "final", "collapsed")), note])


def part_tables(results: Path, name: str) -> str:
    """One part by setting, and its comparisons over all settings, for a page beside the study's own."""
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    part = summary["parts"][name]
    over_all = {**part, "pairs": [pair for pair in part["pairs"] if pair["setting"] == POOLED]}
    note = f"{size(summary)}. {conditions(summary)}"
    return "\n\n".join([table(part, ("final", "collapsed")), comparisons(over_all), note])


def parts_in_short(results: Path, names: Iterable[str]) -> str:
    """Parts that belong together: a line each, and one table of their comparisons by area; of those that are there."""
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    parts = [summary["parts"][name] for name in names if name in summary["parts"]]
    pairs = [{**pair, "setting": part["title"]} for part in parts for pair in part["pairs"]]
    rows = [{**row, "setting": part["title"]} for part in parts for row in part["rows"]]
    if not parts:
        return "Not run yet."
    told = "\n".join(f"- {_elsewhere(part)}" for part in parts)
    return "\n\n".join([told, table({"rows": rows}, (PRIMARY, "final")), comparisons({"pairs": pairs})])


def size(summary: dict[str, Any]) -> str:
    """How much work the results are."""
    return f"{summary['runs']} runs, {summary['seconds'] / 3600:.1f} hours of one thread"


def conditions(summary: dict[str, Any]) -> str:
    """What the intervals are about, and what they are not: the caveats that a table cannot carry."""
    held = summary["held_out"]
    samples = "one sample" if held["samples"] == 1 else f"{held['samples']} samples"
    several = "Runs of one seed are of one machine; on another the same start rounds differently. "
    return (
        "Interquartile means over seeds with 95 % bootstrap intervals; shares of collapsed runs with Wilson's "
        f"interval. {PAIRED} Better: the interval of P(better) excludes one half, and so does a permutation test at "
        "the 5 % level after Holm's correction. Leaning: only the differences of paired runs, taken alone, pass one "
        "that deals out their signs. Three runs against three pass neither, whatever they say. All runs are evaluated "
        f"on the same {held['problems']} held-out problems, {samples} each, and start from the same policy unless a "
        "part says otherwise: the intervals are about training seeds, not about other problems or starts. "
        f"{several if len(summary['machines']) > 1 else ''}"
    ).strip()


def table(part: dict[str, Any], scores: Iterable[str] = tuple(COLUMNS)) -> str:
    """One line an arm (in each setting, and pooled)."""
    scores = list(scores)
    rows = []
    for row in part["rows"]:
        before = [short(row[name]) for name in ("greedy_before", "before", "greedy")]
        cells = [_score(name, row[name]) for name in scores]
        rows.append([row["setting"], row["arm"], str(row["runs"]), *before, *cells, _masked(row)])
    around = ["greedy before", "sampled before", "greedy after"]
    return _markdown(["arm", "runs", *around, *(COLUMNS[name] for name in scores), "masked (%)"], rows)


def comparisons(part: dict[str, Any]) -> str:
    """Each pair of arms, and whether the seeds tell the two apart."""
    rows = []
    for pair in part["pairs"]:
        told = [Interval(**pair[PRIMARY]).text(), _difference(pair), Interval(**pair["worst"]).text()]
        over = f"{pair['first']} over {pair['second']}"
        needed = "-" if pair["seeds_needed"] is None else f"{pair['seeds_needed']:,}"
        rows.append([pair["setting"], over, *told, short_p(pair["p"]), verdict(pair) + leaning(pair), needed])
    heads = ["pair", "P(better) by area", "difference in area", "P(better) by worst window", "p", "verdict"]
    return _markdown([*heads, "seeds to tell"], rows)


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


def _runs(summary: dict[str, Any], command: str) -> str:
    """How much was run and on what, and the parts that are not there, or not yet whole."""
    told = ", ".join(f"`{name}` ({left} runs of {of})" for name, (left, of) in summary["missing"].items())
    return (
        f"{size(summary)} on {'; and on '.join(map(_machine, summary['machines']))}. This page, `summary.json` "
        "and the figures are drawn from `study.parquet`; beside each figure lies the data in it."
    ) + (f"\n\nNot there yet: {told}, each by `{command} --only NAME`." if told else "")


def _part(summary: dict[str, Any], name: str, pictures: list[str]) -> list[str]:
    """What was asked, what came out, and its figures."""
    part, (left, planned) = summary["parts"][name], summary["missing"].get(name, (0, 0))
    so_far = f"So far {planned - left} of {planned} runs." if left else ""
    told = [f"{part['question']} {so_far}".strip(), table(part)]
    told += [comparisons(part)] if part["pairs"] else []
    told.append(_chosen(summary, name))
    told += [f"![{picture}](figures/{picture}.png)" for picture in pictures if picture.rpartition("-")[0] == name]
    return [text for text in told if text]


def _elsewhere(part: dict[str, Any]) -> str:
    """Another part in a line: how many runs fell, and what is told apart."""
    fallen = [f"{row['setting']} {row['arm']} {_fell(row)}".strip() for row in part["rows"] if row["setting"] != POOLED]
    apart = [_apart(pair) for pair in part["pairs"] if verdict(pair) != TOLD_NOTHING]
    told = f" {'; '.join(apart)}." if apart else " No two are told apart." if part["pairs"] else ""
    return f"**{part['title']}.** Runs that end below their start: {', '.join(fallen)}.{told}"


def _family(title: str, *arms: str, parts: list[dict[str, Any]]) -> str:
    """Parts with the same arms, "Something at 51 tokens" and "Something at 147 tokens", in a line."""
    fallen, apart = [], []
    for part in parts:
        place = part["title"].partition(" at ")[2]
        counts = [_fell(next(row for row in part["rows"] if row["arm"] == arm)) for arm in arms]
        fallen.append(f"at {place} {', '.join(counts)}")
        apart += [f"at {place} {_apart(pair)}" for pair in part["pairs"] if verdict(pair) != TOLD_NOTHING]
    told = f"{'; '.join(apart)}." if apart else "No two are told apart."
    return f"**{title}: {', '.join(arms)}.** Runs that end below their start: {'; '.join(fallen)}. {told}"


def _apart(pair: dict[str, Any]) -> str:
    return f"{verdict(pair)} than {pair['second' if pair[PRIMARY]['value'] > 0.5 else 'first']}"


def _fell(row: dict[str, Any]) -> str:
    return f"{round(row['collapsed']['value'] * row['runs'])} of {row['runs']}"


def _difference(pair: dict[str, Any]) -> str:
    return Interval(**pair[f"{PRIMARY}_difference"]).text()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _score(name: str, entry: dict[str, float]) -> str:
    if name != "reach":
        return Interval(**entry).text()
    return "{value:.0f} [{low:.0f}, {high:.0f}]".format(**entry)


def _chosen(summary: dict[str, Any], name: str) -> str:
    """What a tuning part chose."""
    winners = summary["winners"].get(name)
    if not winners:
        return ""
    told = "; ".join(
        f"`{method}` {', '.join(f'{key} = {value}' for key, value in params.items())}"
        for method, params in winners.items()
    )
    part = summary["parts"][name]
    return (
        f"Tuned: the candidate with the highest interquartile mean of `{summary['choose']}` over {part['seeds']} seeds "
        f"of its own (of equals the first), out of {len(part['rows']) // len(winners)} for each method: {told}."
    )


def _masked(row: dict[str, Any]) -> str:
    """The share of the tokens that were masked, or scaled down where the method does that instead."""
    if row["masked"] is None:
        return "-"
    return f"{100 * row['gated']:.2f} gated" if row["gated"] else f"{100 * row['masked']:.2f}"


def _machine(machine: dict[str, Any]) -> str:
    kernels = f", {machine['kernels']} kernels" if "kernels" in machine else ""
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}, Python {machine['python']}"
    return f"{machine['processor']} ({machine['device']}{kernels}), {versions}"
