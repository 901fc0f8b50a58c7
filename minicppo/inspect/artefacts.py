"""Is the log what it claims to be? Each artefact found, with its share and evidence; and the table without it.

Every test asks what a right log cannot show, however far the policy has drifted: tokens are drawn from mu, so that
E[pi / mu] = 1 whatever pi is; drift does not know which number is written down exactly; log-probs one place off fit
better when put back. So few tokens, long responses and strong drift make a test silent, not wrong.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from minicppo.inspect.shape import Shape
from minicppo.inspect.shift import put_back
from minicppo.inspect.table import LARGEST, Column, Table
from minicppo.rules.batch import LOG_PROB_LIMIT
from minicppo.text import many

WITHOUT = "figures below are made without these tokens"
NONE = "ratios, divergences, k1 to k3, ESS and every mask: no figure but lengths and rewards can be trusted"
SPOILS = {
    "nan": WITHOUT,
    "positive": WITHOUT,
    "placeholder": f"{WITHOUT}; prefix budgets and whole-response ratios miss what those tokens did",
    "prompt": f"{WITHOUT}; positions count from what is left",
    "shifted": "figures below are made with the log-probs put back; a training run that read them so is void",
    "truncated": f"mu is not the sampler's: {NONE}",
    "temperature": f"two temperatures are compared: {NONE}",
    "equal": "no drift can be seen: masks, k1 to k3 and counterfactuals are those of a ratio of one",
    "half_precision": "differences below about 1 % of a log-prob are rounding: mismatch, and k3 where it is small",
    "advantages": "signs of advantage, and every mask, which they decide",
    "per_token_advantages": "methods that expect one advantage a response: their masks follow each token's sign here",
    "duplicates": "errors and intervals: repeated responses count as if they were independent",
}
ROUNDINGS = {"a bfloat16 number": 8, "a float16 number": 11}
LOGS = ". If they are probabilities, write their logs"
KEPT = 1 << 18  # responses that are remembered, to know them again


class Artefacts:
    """Call `clean` with every portion of the log, `found` at the end.

    own: the log is a run of ours, whose log-probs stand where they belong and are of whole softmaxes at one
    temperature: what looks otherwise there is what training did.
    """

    def __init__(self, own: bool = False):
        self.own, self.shape = own, Shape()
        self.counts: Counter[str] = Counter()
        self.of: Counter[str] = Counter()
        self.evidence: dict[str, str] = {}
        self.seen: dict[int, tuple[int, float]] = {}  # of a response: how often, highest log mu(y)
        self.advantages: Counter[float] = Counter()

    def note(self, kind: str, flags: Column, evidence: str = "") -> None:
        """Count where it is so, among all; the first evidence stays."""
        self.counts[kind] += int(flags.sum())
        self.of[kind] += len(flags)
        if flags.any():
            self.evidence.setdefault(kind, evidence)

    def clean(self, table: Table) -> Table:
        """The portion put right where it can be, without the tokens that cannot; of the responses looked at."""
        given = [values for values in (table.mu, table.pi, table.old) if values is not None]
        unknown = np.isnan(table.advantages[table.spread(table.looked)]).all()
        numbers = given if unknown else [*given, table.advantages]
        good = np.logical_and.reduce([abs(values) <= LARGEST for values in numbers])
        top = np.where(good, np.maximum.reduce(given), 0)
        self.note("nan", ~good, "a log-prob or advantage is null, NaN, infinite or beyond a million")
        most = top.max(initial=0)
        text = f"log-probs up to {most:.3g}; none can exceed 0{LOGS if most <= 1 else ''}"
        self.note("positive", top > LOG_PROB_LIMIT, text)
        table = table.only(good & (top <= LOG_PROB_LIMIT))
        table = table.responses(table.looked)
        table = replace(table, advantages=np.nan_to_num(table.advantages))
        self._remember(table)
        if table.pi is not None:
            for name, values in (("mu", table.mu), ("pi", table.pi)):
                tested = values[(values < -0.05) & (values > -60)]
                for form, bits in ROUNDINGS.items():
                    self.note(f"every log {name} is {form}", representable(tested, bits))
            if not self.own:
                table, rows, text = put_back(table)
                self.note("shifted", table.spread(rows), text)
            table = table.only(~self._placeholders(table))
        if not unknown:
            first = table.advantages[table.starts[table.lengths > 0]]
            rough = table.sums(table.advantages != np.repeat(first, table.lengths[table.lengths > 0])) > 0
            text = "advantages change within a response, where one for all its tokens is expected"
            self.note("per_token_advantages", rough, text)
            if len(self.advantages) < 1000:
                self.advantages.update(first.tolist())
        self.shape.add(table)
        return table

    def found(self) -> list[dict[str, Any]]:
        """Each artefact as {kind, share, count, evidence, spoils}, the gravest first."""
        counts, of = self.counts, self.of
        found = {kind: (counts[kind], of[kind], self.evidence[kind]) for kind in SPOILS if counts[kind]}
        for key in (f"every log {name} is {form}" for name in ("pi", "mu") for form in ROUNDINGS):
            if of[key] >= 30 and counts[key] > 0.95 * of[key]:
                found["half_precision"] = counts[key], of[key], key
        unsure, equal, tokens = (self.shape.met[name] for name in ("unsure", "equal", "tokens"))
        if unsure >= 20 and equal > 0.99 * unsure:
            found["equal"] = equal, unsure, "log pi is log mu to the last digit: what was logged is the sampler's own"
        repeats = [seen for seen in self.seen.values() if self._improbable(*seen)]
        if repeats:
            text = "one response {} times, of probability e^{:.0f} each time".format(*max(repeats))
            found["duplicates"] = sum(n - 1 for n, _ in repeats), of["response"], text
        for kind, text in [] if self.own else self.shape.verdicts():
            found[kind] = tokens, tokens, text
        n = self.advantages.total()
        if len(self.advantages) == 1 and n >= 4:
            found["advantages"] = n, n, f"every response has the advantage {next(iter(self.advantages)):g}"
        if counts["per_token_advantages"] <= 0.02 * of["per_token_advantages"]:
            found.pop("per_token_advantages", None)
        rows = [(kind, spoils, *found[kind]) for kind, spoils in SPOILS.items() if kind in found]
        return [
            {"kind": kind, "share": n / max(among, 1), "count": n, "evidence": text, "spoils": spoils}
            for kind, spoils, n, among, text in rows
        ]

    def _placeholders(self, table: Table) -> Column:
        """Which tokens hold a number that stands for none; leading runs of them are a prompt's."""
        assert table.pi is not None
        prompt = prompt_tokens(table)
        lengths = table.sums(prompt)
        text = f"{many((lengths > 0).sum(), 'response')} with tokens of log mu 0, no sampler's, at the beginning"
        self.note("prompt", prompt, f"{text}: {lengths.max(initial=0):.0f} at most")
        gone = (table.mu == 0) & (table.pi == 0) & ~prompt  # right where many are nearly sure, and some quite
        if gone.sum() < 20 or gone.sum() < 10 * ((table.pi < 0) & (table.pi > -0.02)).sum():
            gone[:] = False
        else:
            self.evidence["placeholder"] = "both log-probs are exactly 0, where next to none is near 0"
        for name, values, other in (("mu", table.mu, table.pi), ("pi", table.pi, table.mu)):
            for value in repeated(values[~prompt]):
                at = (values == value) & ~prompt
                if independent(at, values, other, value, ~prompt):
                    off = at & (abs(other - value) > 0.01)
                    middle = np.median(other[off])
                    text = f"log {name} is exactly {value:g} where the other is {middle:.2f} in the middle"
                    self.evidence.setdefault("placeholder", text)
                    gone |= off
        self.note("placeholder", gone)
        return gone | prompt

    def _remember(self, table: Table) -> None:
        self.of["response"] += len(table.lengths)
        total, names = table.sums(table.mu), table.ids if table.texts is None else table.texts
        for i in np.flatnonzero(table.lengths >= 4):
            part = names[table.starts[i] : table.starts[i] + table.lengths[i]]
            text = tuple(part) if table.texts is not None else part.tobytes()
            key = hash((int(table.steps[i]), text))  # a later step may train on it again, as two epochs of a batch do
            if part[0] != -1 and (key in self.seen or len(self.seen) < KEPT):
                count, best = self.seen.get(key, (0, -np.inf))
                self.seen[key] = count + 1, max(best, float(total[i]))

    def _improbable(self, count: int, log_prob: float) -> bool:
        """Chernoff's bound of drawing a response so often among all, below e^-12 even if any of them may be it."""
        n = self.of["response"]
        expected = n * np.exp(log_prob) + 1e-300
        return count > max(expected, 1) and count * np.log(count / expected) - count + expected > 12 + np.log(n)


def repeated(values: Column) -> list[float]:
    """The values that occur exactly, far too often for chance: the eight commonest, the lowest and the highest."""
    sample = values[:: max(len(values) // 50_000, 1)]
    found, counts = np.unique(sample, return_counts=True)
    commonest = np.argsort(-counts)[:8]
    ends = np.arange(len(found))[[0, -1]] if len(found) else commonest
    often = counts >= max(3, 3e-4 * len(sample))
    return [float(found[i]) for i in np.union1d(commonest, ends) if often[i]]


def independent(at: Column, values: Column, other: Column, value: float, among: Column) -> bool:
    """Does the other policy not know of the value? Where it is true of a token, its neighbours in value say the same.

    Compared are the shares of tokens where the other is 0.7 nats away, at the value and next to it, by 5 sigma.
    """
    far = abs(other - value) > 0.7
    near = among & ~at & (abs(values - value) < 0.05)
    n, m = at.sum(), near.sum()
    k = min((at & far).sum(), 3 * len(np.unique(other[at & far])) - 6)  # a repeated response is one witness, not many
    expected = ((near & far).sum() + 0.5) / (m + 10)
    sigma = np.sqrt(n * expected * (1 - expected) + n * n * expected / (m + 10))
    return bool(k >= (3 if m < n / 4 else 5) and k - n * expected > 5 * sigma and k > 2 * n * expected)


def prompt_tokens(table: Table) -> Column:
    """Tokens of prompts that the mask lets pass.

    Before a response has begun no sampler wrote a log-prob: leading runs of exact zeros in log mu, in far more
    responses than zeros elsewhere explain. A sampler that is sure of its first tokens has zeros too, but pi agrees, and
    it begins with the same words every time.
    """
    assert table.pi is not None
    zero, filled = table.mu == 0, table.lengths > 0
    broken = np.concatenate([[0], np.cumsum(~zero)])
    leading = broken[1:] == table.spread(broken[table.starts])
    begins = (table.sums(leading) > 0)[filled]
    elsewhere = (zero.sum() - leading.sum()) / max(len(table) - leading.sum(), 1)
    if begins.sum() < 3 or begins.mean() < max(0.1, 5 * elsewhere):
        return np.zeros(len(table), bool)
    first = table.ids[table.starts[filled]][begins]
    disagree = (abs(table.pi[leading]) > 0.5).mean() > 0.1
    differ = first[0] >= 0 and len(np.unique(first)) > max(2, 0.02 * len(first))
    differ &= (table.pi[leading] == 0).mean() > 0.5  # else the sampler was sure, of other words after other prompts
    return leading & (disagree or differ or table.headed[filled][begins].mean() > 0.5)


def representable(values: Column, bits: int) -> Column:
    """Is each value, as far as six decimals tell, a number of so many binary digits?"""
    spacing = abs(values / np.frexp(values)[0]) * 2.0**-bits
    return abs(values - np.round(values / spacing) * spacing) <= np.maximum(6e-7, 1e-6 * spacing)
