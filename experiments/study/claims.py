"""What a part of the study settles, in sentences: every word that could be wrong is computed from its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.study.stats import Interval
from experiments.study.summary import POOLED

SIGNIFICANT = 0.05
TOLD_NOTHING = "not told apart"
RIVALS = ("cppo", "dppo")  # families: does the first beat the second?


def verdict(pair: dict[str, Any]) -> str:
    """Better where both the interval of P(better) and the corrected permutation test exclude one half."""
    chance = Interval(**pair["final"])
    if pair["p"] < SIGNIFICANT and chance.low > 0.5:
        return f"{pair['first']} better"
    if pair["p"] < SIGNIFICANT and chance.high < 0.5:
        return f"{pair['second']} better"
    return TOLD_NOTHING


def claims(
    part: dict[str, Any], replication: dict[str, Any] | None = None, elsewhere: Sequence[dict[str, Any]] = ()
) -> list[str]:
    """One sentence each on collapse, on CPPO against DPPO, on every other comparison of the part, and on other scores.

    elsewhere: parts that collapse is told of too. replication: the part that asks the second again, of other seeds.
    """
    told = [collapse(part), collapse_elsewhere(elsewhere), rivals(part)]
    if replication is not None:
        told.append(rivals(replication, f"And on {replication['rows'][0]['runs']} other seeds, asked alone?"))
    told += [others(part), other_scores(part)]
    return [sentence for sentence in told if sentence]


def collapse(part: dict[str, Any]) -> str:
    """How many runs collapse without a mask, and how many with each."""
    rows = [row for row in part["rows"] if not row["same_runs_as"]]
    counts = {row["arm"]: (_fallen(row), row["runs"]) for row in rows}
    bare = [row["arm"] for row in rows if row["method"] == "none"]
    if len(bare) != 1 or len(counts) != len(rows):
        return ""
    hits, runs = counts.pop(bare[0])
    fallen = [f"{arm} {n} of {of}" for arm, (n, of) in counts.items() if n]
    safe = [arm for arm, (n, _) in counts.items() if not n]
    masked = f"with a mask {sum(n for n, _ in counts.values())} of {sum(of for _, of in counts.values())}"
    where = f" ({'; '.join([*fallen, *(['none with ' + _listed(safe)] if safe else [])])})" if fallen else ""
    setting = f"Under `{part['preset']}`, in {part['iterations']} iterations,"
    return f"**Does a mask matter?** {setting} {hits} of {runs} runs without one collapse, {masked}{where}."


def collapse_elsewhere(parts: Sequence[dict[str, Any]]) -> str:
    """In which parts runs collapse in which something was masked or gated, and how many of those."""
    told = []
    for part in parts:
        masked = [row for row in part["rows"] if (row["masked"] or row["gated"]) and row["setting"] != POOLED]
        fallen = sum(map(_fallen, masked))
        if fallen:
            told.append(f"{part['title']}, {fallen} of {sum(row['runs'] for row in masked)}")
    return f"**Do runs with a mask or a gate collapse elsewhere?** Yes: {'; '.join(told)}." if told else ""


def arm_by_arm(part: dict[str, Any]) -> str:
    """Each arm's final accuracy and collapsed runs, without a verdict."""
    told = [
        f"{row['arm']} {Interval(**row['final']).text()}, {_fallen(row)} of {row['runs']} collapse"
        for row in part["rows"]
        if row["setting"] != POOLED
    ]
    return f"**{part['title']}.** {'; '.join(told)}."


def rivals(part: dict[str, Any], question: str = "Does CPPO beat DPPO?") -> str:
    """Whether CPPO beats DPPO: the answer, and the numbers that it rests on."""
    pairs = [pair for pair in part["pairs"] if _families(part, pair) == RIVALS]
    if not pairs:
        return ""
    found = {verdict(pair).replace(pair["first"], "first").replace(pair["second"], "second") for pair in pairs}
    answers = {"first better": "Yes, here", "second better": "No, the other way round", TOLD_NOTHING: "Not settled"}
    both = "Settled in part" if TOLD_NOTHING in found else "It depends on the thresholds"
    answer = answers[found.pop()] if len(found) == 1 else both
    return f"**{question}** {answer}. " + " ".join(_numbers(part, pair) for pair in pairs)


def others(part: dict[str, Any]) -> str:
    """The remaining comparisons, by verdict."""
    rest = [pair for pair in part["pairs"] if _families(part, pair) != RIVALS]
    apart = [pair for pair in rest if verdict(pair) != TOLD_NOTHING]
    told = [f"{verdict(pair).removesuffix(' better')} does better than {_loser(pair)}" for pair in apart]
    same = [f"{pair['first']} and {pair['second']}{leaning(pair)}" for pair in rest if pair not in apart]
    parts = ["; ".join(told) + "." if told else "", f"Not told apart: {'; '.join(same)}." if same else ""]
    sentence = " ".join(part for part in parts if part)
    return f"**The others.** {sentence}" if sentence else ""


def other_scores(part: dict[str, Any]) -> str:
    """What final accuracy does not tell apart, but another score seems to."""
    told = []
    for name, label in (("area", "mean reward"), ("worst", "lowest late reward")):
        found = []
        for pair in part["pairs"]:
            if verdict(pair) == TOLD_NOTHING and name in pair:
                chance = Interval(**pair[name])
                if chance.low > 0.5 or chance.high < 0.5:
                    better, worse = ("first", "second") if chance.low > 0.5 else ("second", "first")
                    found.append(f"{pair[better]} over {pair[worse]} ({chance.text()})")
        if found:
            told.append(f"{label}, {' and '.join(found)}")
    note = "each P(better) taken alone, and meant as a question to other seeds"
    return f"**By other scores?** {'; '.join(told)}: {note}." if told else ""


def _loser(pair: dict[str, Any]) -> str:
    return str(pair["second"] if verdict(pair) == f"{pair['first']} better" else pair["first"])


def _families(part: dict[str, Any], pair: dict[str, Any]) -> tuple[str, ...]:
    methods = {row["arm"]: row["method"] for row in part["rows"]}
    return tuple(methods[pair[side]].split("-")[0] for side in ("first", "second"))


def _numbers(part: dict[str, Any], pair: dict[str, Any]) -> str:
    rows = {row["arm"]: row for row in part["rows"] if row["setting"] == pair["setting"]}
    one, other = (
        f"{pair[side]}{_twin(rows[pair[side]])} {Interval(**rows[pair[side]]['final']).text()}"
        for side in ("first", "second")
    )
    where = f"{pair['setting']}: " if pair["setting"] else ""
    p = short_p(pair["p"])
    return (
        f"{where}{one} against {other}: difference {Interval(**pair['final_difference']).text()}, "
        f"P(better) {Interval(**pair['final']).text()}, p {p if p[0] == '<' else f'= {p}'}{leaning(pair)}."
    )


def _fallen(row: dict[str, Any]) -> int:
    return round(row["collapsed"]["value"] * row["runs"])


def _twin(row: dict[str, Any]) -> str:
    return f" (the runs of {row['same_runs_as']})" if row["same_runs_as"] else ""


def leaning(pair: dict[str, Any]) -> str:
    """To whom the seeds lean without settling it: the differences of paired runs, uncorrected, pass a test."""
    if verdict(pair) != TOLD_NOTHING or pair["paired_p"] >= SIGNIFICANT:
        return ""
    return f", leaning to {pair['first'] if pair['final_difference']['value'] > 0 else pair['second']}"


def short_p(p: float) -> str:
    """Two digits, or below what the permutations can tell."""
    return "< .001" if p < 0.001 else f"{p:.2g}".removeprefix("0") if p < 1 else "1"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
