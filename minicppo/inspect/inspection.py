"""One reading of a log: every portion cleaned, counted and sampled; and the report, a plain dictionary."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minicppo.inspect.artefacts import Artefacts
from minicppo.inspect.counterfactual import Counterfactuals, certificate, certifying, thresholds
from minicppo.inspect.log import Log
from minicppo.inspect.statistics import Statistics
from minicppo.inspect.table import Table, joined, portions
from minicppo.inspect.tokens import Decode, Strings
from minicppo.rules import Method, get_method

LOOKED = 1_000_000  # tokens that figures are made of; of a longer log, of responses evenly spread
TRIED = 200_000  # tokens that every method is tried on
SHOWN = 100_000  # tokens kept as they are: for thresholds, the certificate and the page
AT_ONCE = 10_000  # tokens taken from a portion for either, as many small batches are slow
BY = ("position", "length", "sign", "reward", "step", "turn")


class Inspection:
    """A log read to its end, or to Ctrl-C: `report` is what `--json` prints, `sample` some of its responses."""

    def __init__(self, log: Log, method: Method, decode: Decode | None):
        self.log, self.statistics, self.strings = log, Statistics(method), Strings(decode)
        self.artefacts, self.others = Artefacts(), Counterfactuals()
        self.sample: list[Table] = []
        self.tokens = self.responses = 0
        self.expected = 0.0  # tokens of the whole log, as its first portion lets expect

    def take(self, table: Table) -> None:
        """Count one portion."""
        self.tokens += len(table)
        self.responses += len(table.lengths)
        self.expected = self.expected or max(self.tokens * self.log.total / max(self.log.done, 1), 1)
        self.log.rate = min(1.0, LOOKED / self.expected)
        self.artefacts.own = list(self.log.formats) == ["minicppo"]
        clean = self.artefacts.clean(table)
        reason = self.statistics.add(clean)
        if reason is not None:
            self.strings.add(clean, reason)
        read = self.log.done / max(self.log.total, 1) or 1.0
        if (due := TRIED * read - self.others.tokens) > 0:
            self.others.add(some(clean, max(due, AT_ONCE)))
        if clean.pi is not None and (due := SHOWN * read - sum(map(len, self.sample))) > 0:
            self.sample.append(some(clean, max(due, AT_ONCE)))

    @cached_property
    def report(self) -> dict[str, Any]:
        """Every number, as plain values, once the log is read."""
        log, stats, method = self.log, self.statistics, self.statistics.method
        has_pi = stats.total.sums[0] > 0
        row = stats.total.row() if has_pi else {}
        mismatch, drift, separated = self.apart(row)
        out: dict[str, Any] = {
            "format": "+".join(log.formats),
            "files": [str(file) for file in log.files if str(file) not in log.other],
            "pi": log.pi if has_pi else "none",
            "responses": self.responses,
            "tokens": self.tokens,
            "looked_at": {"responses": stats.responses, "tokens": stats.tokens},
            "partial": log.partial,
            "skipped": log.skipped,
            "broken": log.broken,
            "artefacts": self.artefacts.found(),
            "mismatch": mismatch,
            "drift": drift,
            "separated": separated,
            **{name: row.get(name) for name in ("k1", "k2", "k3", "chi2", "ess")},
            "ess_responses": stats.ess_responses if has_pi else None,
            "ratios": row,
            "apart": {"mismatch": stats.mismatch.row(), "drift": stats.drift.row()} if drift and separated else None,
            "surprise": stats.surprise / max(stats.tokens, 1),
            "length": {"mean": stats.tokens / stats.responses, "max": stats.longest},
            "rule": {"name": method.name, "params": method.params},
            "by": {name: rows for name in BY if len(rows := stats.table_of(name))},
            "methods": self.others.rows(),
            "agreement": self.others.agreement(),
            "tried_on": self.others.tokens,
            "strings": self.strings.rows(),
        }
        if has_pi:
            out |= {name: mean(out["by"]["sign"], name) for name in ("tv", "masked")}
            sample = joined(self.sample)
            out |= {"heat": stats.heat(), "certificate": certificate(sample)}
            if hasattr(method, "delta_b"):
                span = max(stats.rewards, default=1.0) - min(stats.rewards, default=0.0)
                out["thresholds"] = thresholds(some(sample, 30_000), method)
                out["certifying"] = certifying(stats.longest, method, span if span > 1e-6 else 1.0)
        found: dict[str, Any] = plain(out | {"warnings": watched(out)})
        return found

    def apart(self, row: dict[str, float]) -> tuple[float | None, float | None, bool]:
        """Mismatch, drift, and whether they were told apart. row: of all log pi - log mu, {} where there are none.

        With pi_old: mean |log pi_old - log mu| and mean |log pi - log pi_old|. Where the log's pi is pi_old, the first
        alone. Else both are in |log pi - log mu|: its mean is given as drift, its median as mismatch, since half of all
        tokens differ by no more, and what they all share is at most that.
        """
        if self.log.pi == "old":
            return row.get("mean"), None, bool(row)
        if self.statistics.drift.sums[0]:
            return self.statistics.mismatch.row()["mean"], self.statistics.drift.row()["mean"], True
        return row.get("median"), row.get("mean"), False


def watched(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Early warning: figures that others watch, from which level they call them suspect, and who says so."""
    error, outside = (report["ratios"].get(name) for name in ("prob_error", "outside_half_to_two"))
    late, first = by_position(report["by"].get("position", []))
    string = one_string(report["strings"])
    figures = [
        ("mean of exp |log pi - log mu|", error, 1.05, "NeMo-RL #1767"),
        ("k3 of mu and pi, nats a token", report["k3"], 0.02, "miles #2476: .01 to .02 is normal"),
        ("mismatch, mean nats a token", report["mismatch"], 0.02, "miles #2476"),
        ("k3 late over k3 early in a response", late, 3.0, "Megatron-LM #76: .22 at 460 tokens, 1.2 and more at 3,400"),
        ("first token's gap over the others'", first, 5.0, "marin #1879 has such a gap; the level is ours"),
        ("tokens with pi / mu outside .5 to 2", outside, 0.01, "IcePop's usual band; the level is ours"),
        ("chi-square of pi and mu", report["chi2"], 1.0, "verl #2738 watches it; the level is ours"),
        ("ESS of tokens", report["ess"], 0.5, "verl #2738 watches it; the level is ours"),
        ("ESS of whole responses", report["ess_responses"], 0.1, "ours"),
        ("one string's share of what is masked where A > 0", string, 0.5, "prime-rl #3244: .69, and reward fell"),
    ]
    out = []
    for name, value, level, source in figures:
        if value is not None:
            below = name.startswith("ESS")  # the more the better
            row = {"name": name, "value": float(value), "level": level, "below": below, "source": source}
            out.append(row | {"suspect": bool(value < level if below else value > level)})
    return out


def mean(rows: list[dict[str, float]], name: str) -> float:
    """Of groups, weighted by their tokens."""
    return sum(row[name] * row["tokens"] for row in rows) / max(sum(row["tokens"] for row in rows), 1)


def by_position(rows: list[dict[str, float]]) -> tuple[float | None, float | None]:
    """k3 of the later half of the positions over that of the earlier; the first token's |d| over the others'."""
    many = [row for row in rows if row["tokens"] >= 30]
    half = len(many) // 2
    late = mean(many[half:], "k3") / max(mean(many[:half], "k3"), 1e-9) if half > 1 else None
    first = rows[0]["gap"] / max(mean(rows[1:], "gap"), 1e-6) if len(rows) > 1 and rows[0]["tokens"] >= 8 else None
    return late, first


def one_string(rows: list[dict[str, Any]]) -> float | None:
    up = [row for row in rows if row["sign"] > 0]
    return max(row["of_masked"] for row in up) if sum(row["masked"] for row in up) >= 50 else None


def plain(value: Any) -> Any:
    """What JSON can say: NaN and infinities as null, keys as texts."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def some(table: Table, tokens: float) -> Table:
    """Responses, evenly spread, of about so many tokens."""
    rate, number = min(tokens / max(len(table), 1), 1), np.arange(len(table.lengths))
    return table.responses(np.floor((number + 1) * rate) > np.floor(number * rate))


def inspect(
    paths: Sequence[str | Path],
    form: str | None = None,
    skip_broken: bool = False,
    decode: Decode | None = None,
    method: Method | None = None,
    on_progress: Callable[[Log, int], None] | None = None,
) -> Inspection:
    """Read a log and report on it.

    form: the format, unless it is to be detected. decode: a token's text by its number. method: the rule whose mask is
    looked at; default CPPO's. Ctrl-C ends the reading, not the report, which then says "partial".
    Raises Broken, naming file and line, FileNotFoundError, and ValueError where no response is found.
    """
    found = Inspection(Log(paths, form, skip_broken), method or get_method("cppo"), decode)
    try:
        for table in portions(found.log.rows()):
            found.take(table)
            if on_progress is not None:
                on_progress(found.log, found.tokens)
    except KeyboardInterrupt:
        found.log.partial = True
    if not found.responses:
        broken = f"; left out: {found.log.broken[0]}" if found.log.broken else ""
        raise ValueError(
            f"no response in {', '.join(map(str, paths))}{broken}. Way out: a file with a record for each response, or "
            "a run that has its trace, which is written at its evaluations"
        )
    return found
