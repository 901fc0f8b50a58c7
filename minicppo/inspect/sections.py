"""The report in words and tables: sections that the terminal and the page both show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minicppo.text import many

Report = dict[str, Any]
PI = {
    "current": "the policy being trained",
    "old": "the trainer's own, before the first update: it shows mismatch, no drift",
    "none": "not in this log, and of mu alone little can be told",
    "mixed": "of several kinds",
}
ESTIMATES = ("mean", "median", "k1", "k2", "k3", "chi2", "ess")  # of d = log pi - log mu
SIGNS = {-1: "A < 0", 0: "A = 0", 1: "A > 0"}
REASONS = ("token", "prefix", "both", "sequence")
COMPARED = "responses tokens masked mismatch drift k1 k2 k3 tv chi2 ess ess_responses".split()
SHOWN_PAIRS = ("grpo", "dppo", "cppo", "cppo-fixed", "gspo", "trm-avg-k3")


@dataclass
class Section:
    """A title; a table, of whose columns the first `words` hold words; sentences under it."""

    title: str
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    words: int = 1


def num(x: float | None) -> str:
    return "-" if x is None else f"{x:,}" if isinstance(x, int) else f"{x:.3g}"


def pct(x: float | None) -> str:
    return "-" if x is None else f"{100 * x:.{2 if abs(x) < 0.1 else 1}f} %"


def thinned(rows: Sequence[Any]) -> Sequence[Any]:
    """At most twelve of the rows, evenly spread, the first and the last among them."""
    return rows if len(rows) <= 12 else [rows[round(i * (len(rows) - 1) / 11)] for i in range(12)]


def sections(report: Report) -> Iterator[Section]:
    """Everything there is to say of this log, artefacts first."""
    yield of_log(report)
    rows = [[a["kind"], pct(a["share"]), a["evidence"], a["spoils"]] for a in report["artefacts"]]
    heads = ("artefact", "share", "evidence", "what it spoils")
    yield Section("Is the log right?", heads, rows, () if rows else ["No artefact found."], words=4)
    if report["by"]:
        yield apart(report)
        yield against(report)
        yield from groups(report)
        yield strings(report)
        yield methods(report)
        names = [name for name in SHOWN_PAIRS if name in report["agreement"]]
        rows = [[name, *(f"{report['agreement'][name][other]:.2f}" for other in names)] for name in names]
        note = "Tokens that both mask over those that either does. --json has every pair"
        yield Section("Do they mask the same tokens?", ("", *names), rows, [note])
        yield thresholds(report)
        yield certificate(report)
    rows = []
    for w in report["warnings"]:
        level = f"{'below' if w['below'] else 'above'} {w['level']:g}"
        rows.append([w["name"], num(w["value"]), level, "SUSPECT" * w["suspect"], w["source"]])
    yield Section("Early warning", ("figure", "here", "suspect", "", "who says so"), rows, words=5)


def of_log(report: Report) -> Section:
    size = f"{many(report['responses'], 'response')}, {many(report['tokens'], 'token')} counted"
    length = f"{report['length']['mean']:.0f} on average, {report['length']['max']:,} at most"
    notes = [f"{size}; {length}. Format: {report['format']}", f"pi: {PI[report['pi']]}"]
    notes.append(f"-log mu is {num(report['surprise'])} nats a token on average, an estimate of mu's entropy")
    if report["looked_at"]["responses"] < report["responses"]:
        notes.append(f"Figures are of {report['looked_at']['responses']:,} of these responses, evenly spread")
    if report["partial"]:
        notes.append("PARTIAL: the reading was stopped before the end")
    if report["skipped"]:
        notes.append(f"{many(report['skipped'], 'broken record')} left out: {'; '.join(report['broken'][:3])} ...")
    return Section(f"Log: {name(report)}", notes=notes)


def name(report: Report) -> str:
    first, *rest = report["files"]
    return f"{first} and {len(rest)} more" if rest else str(first)


def apart(report: Report) -> Section:
    mismatch, drift, both = num(report["mismatch"]), num(report["drift"]), report["apart"] or {}
    labels = {"mismatch": "mismatch, mu to pi_old", "drift": "drift, pi_old to pi"}
    rows = [[labels[key], *(num(row[e]) for e in ESTIMATES)] for key, row in both.items()]
    note = f"Mismatch {mismatch} nats a token on average, drift {drift}"
    if not report["separated"]:
        note = f"Together {drift} nats a token on average. Without pi_old they cannot be told apart; "
        note += f"mismatch, which all tokens share, is at most the median, {mismatch}"
    return Section("Mismatch and drift", ("", *ESTIMATES), rows, [note])


def against(report: Report) -> Section:
    r = report["ratios"]
    tails = ", ".join(f"p{q} {num(r[f'ratio_p{q}'])}" for q in ("0.1", "1", "5", "50", "95", "99", "99.9"))
    notes = [
        f"TV {num(report['tv'])} a token (binary); ESS of whole responses {pct(report['ess_responses'])}",
        f"pi / mu: {tails}; from {num(r['ratio_min'])} to {num(r['ratio_max'])}",
        f"{pct(r['outside_half_to_two'])} of them outside .5 to 2",
        f"{report['rule']['name']} masks {pct(report['masked'])}",
    ]
    rows = [["d = log pi - log mu", *(num(r[key]) for key in ESTIMATES)]]
    return Section("pi against mu", ("", *ESTIMATES), rows, notes)


def groups(report: Report) -> Iterator[Section]:
    heads = ("tokens", "mean |d|", "mean d", "k3", "TV", "masked")
    for by, rows in report["by"].items():
        if len(rows) > 1:
            first = f"{'from ' * (by in ('position', 'length'))}{by}"
            cells = []
            for row in thinned(rows):
                label = SIGNS[row[by]] if by == "sign" else f"{row[by]:g}"
                means = (num(row[key]) for key in ("gap", "log_ratio", "k3", "tv"))
                cells.append([label, f"{row['tokens']:,.0f}", *means, pct(row["masked"])])
            yield Section(f"By {by}", (first, *heads), cells, words=0)


def strings(report: Report) -> Section:
    rows = []
    for sign in (1, -1):
        for row in [row for row in report["strings"] if row["sign"] == sign][:8]:
            shares = (pct(row[key]) for key in ("share", "of_masked"))
            by = (num(row[reason]) for reason in REASONS)
            rows.append([repr(row["text"]), SIGNS[sign], num(row["tokens"]), *shares, *by])
    heads = ("string", "sign", "tokens", "masked", "of all masked", *REASONS)
    return Section(f"What {report['rule']['name']} masks most", heads, rows, words=2)


def methods(report: Report) -> Section:
    told = {name: row for name, row in report["methods"].items() if row["masked"] is not None}
    rows = [[name, pct(row["masked"]), pct(row["changed"]), row["summary"]] for name, row in told.items()]
    untold = ", ".join(sorted(set(report["methods"]) - set(told)))
    notes = [
        f"On {many(report['tried_on'], 'token')}. Changed: weights other than pi / mu",
        "What the run's own rule masked is in no log: these are the rules here, at their own limits",
        f"This log cannot tell: {untold}",
    ]
    return Section("What other rules would mask", ("method", "masked", "changed", "what it is"), rows, notes, words=4)


def thresholds(report: Report) -> Section:
    found = report.get("thresholds", [])
    rows = [[pct(r["wished"]), pct(r["masked"]), num(r["delta"]), num(r["delta_b"])] for r in found]
    notes = []
    for row in report.get("certifying", []):
        vain = ", which is nothing: the reward cannot move by more" if row["vacuous"] else ""
        notes.append(
            f"{row['bound']}: at {row['horizon']:,} tokens a residual of {row['residual']:g} is certified by delta "
            f"{num(row['delta'])}, delta_b {num(row['delta_b'])}. Those in use certify {num(row['now'])}{vain}"
        )
    rule = report["rule"]
    title = f"Thresholds for a wished share, {rule['name']} with w_min {num(rule['params'].get('w_min'))}"
    return Section(title, ("wished", "masked", "delta", "delta_b"), rows, notes, words=0)


def certificate(report: Report) -> Section:
    found, title = report.get("certificate"), "Certificate of improvement, 95 % intervals"
    if not found:
        return Section(title, notes=["No rewards in this log, so improvement cannot be judged"])
    names = ("surrogate", "pair", "expected", "gain")
    rows = [[name, *(num(found[f"certificate/{name}{end}"]) for end in ("", "_low", "_high"))] for name in names]
    size = " in ".join(many(int(found[f"certificate/{what}s"]), what) for what in ("response", "group"))
    notes = [f"{found['verdict']}: {size}. On responses that were trained on it is optimistic"]
    if not found["grouped"]:
        notes.append("The log names no groups: each response counts as a prompt of its own, without a baseline")
    return Section(title, ("", "estimate", "low", "high"), rows, notes)


def compared(reports: Sequence[Report]) -> Iterator[Section]:
    """Two logs, or more, side by side."""
    names = [f"log {i}" for i in range(1, len(reports) + 1)]
    rows = [[key, *(num(report.get(key)) for report in reports)] for key in COMPARED]
    rows.append(["artefacts", *(", ".join(a["kind"] for a in report["artefacts"]) or "none" for report in reports)])
    notes = [f"{label}: {name(report)}" for label, report in zip(names, reports, strict=True)]
    yield Section("Side by side", ("", *names), rows, notes)
    told = [key for key in reports[0]["methods"] if any(report["methods"][key]["masked"] for report in reports)]
    rows = [[key, *(pct(report["methods"][key]["masked"]) for report in reports)] for key in told]
    yield Section("What rules would mask", ("", *names), rows)
    for by in ("position", "length"):
        found = [{row[by]: row["k3"] for row in report["by"].get(by, [])} for report in reports]
        starts = thinned(sorted({start for each in found for start in each}))
        rows = [[f"{start:g}", *(num(each.get(start)) for each in found)] for start in starts]
        yield Section(f"k3 by {by}", (f"from {by}", *names), rows, words=0)
