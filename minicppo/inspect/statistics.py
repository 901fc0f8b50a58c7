"""Sums over a log, portion by portion, and what they say: mismatch, drift, ratios, and where they stand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from minicppo.inspect.table import Column, Table
from minicppo.rules import Method, Reason, TokenBatch

SUMS = ("tokens", "gap", "log_ratio", "k3", "tv", "masked")  # what is added up of every group of tokens
BIN = 0.01  # nats of a bin of log-ratios
QUANTILES = (0.001, 0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
MOST = 4096  # steps, and 40 rewards, that are told apart
STRIDE = 64  # bins of position of one step


class Moments:
    """Of log-ratios d = log q - log p on tokens of p: sums from which every estimate follows.

    sums: of 1, |d|, d, d^2, rho, rho^2, exp |d|. bins: of d. scale: of |d|, 20 bins a decade from 1e-9.
    """

    def __init__(self) -> None:
        self.sums: Column = np.zeros(7)
        self.range = 0.0, 0.0
        self.bins, self.scale = np.zeros(round(40 / BIN) + 1, np.int64), np.zeros(240, np.int64)

    def add(self, d: Column) -> None:
        ratio, gap = np.exp(d), abs(d)
        self.sums += len(d), gap.sum(), d.sum(), d @ d, ratio.sum(), ratio @ ratio, np.maximum(ratio, 1 / ratio).sum()
        self.range = min(self.range[0], d.min(initial=0)), max(self.range[1], d.max(initial=0))
        self.bins += np.bincount(np.rint((d + 20) / BIN).astype(np.int64), minlength=len(self.bins))
        at = (20 * (np.log10(np.maximum(gap, 1e-9)) + 9)).astype(np.int64)
        self.scale += np.bincount(at, minlength=len(self.scale))

    def row(self) -> dict[str, float]:
        """k1 = E[-d], k2 = E[d^2] / 2, k3 = E[rho - 1 - d], chi-square E[(rho - 1)^2], ESS (E rho)^2 / E rho^2."""
        n = max(self.sums[0], 1)
        gap, d, d2, mean, square, error = (self.sums[1:] / n).tolist()
        middle = int(np.searchsorted(self.scale.cumsum(), n / 2))
        values, below = np.arange(len(self.bins)) * BIN - 20, self.bins.cumsum()
        row = {"mean": gap, "median": 10 ** ((middle + 0.5) / 20 - 9) if middle else 0.0}
        row |= {"k1": -d, "k2": d2 / 2, "k3": mean - 1 - d, "chi2": square - 2 * mean + 1}
        row |= {"ess": mean * mean / square if square else 1.0, "ratio_mean": mean, "prob_error": error}
        row["outside_half_to_two"] = float(self.bins[abs(values) > np.log(2)].sum() / n)
        row |= {"ratio_min": float(np.exp(self.range[0])), "ratio_max": float(np.exp(self.range[1]))}
        return row | {f"ratio_p{100 * q:g}": float(np.exp(values[np.searchsorted(below, q * n)])) for q in QUANTILES}


def batch_of(table: Table) -> TokenBatch:
    """The table as the rules read it; where advantages are unknown, they are 0 and nothing moves away."""

    def tensor(values: Column | None) -> torch.Tensor | None:
        return None if values is None else torch.from_numpy(np.minimum(values, 0)).float()

    lengths, A = torch.from_numpy(table.lengths[table.lengths > 0]), torch.from_numpy(table.advantages).float()
    A = A[:, None] if len(A) == len(lengths) else A  # of responses of one token each, one a response
    log_probs: dict[str, Any] = {"log_probs": tensor(table.pi), "old_log_probs": tensor(table.old)}
    return TokenBatch.from_packed(lengths, rollout_log_probs=tensor(table.mu), advantages=A, **log_probs)


def verdicts(table: Table, method: Method) -> Column:
    """(N,) codes of `Reason`."""
    batch = batch_of(table)
    return method(batch).reason[batch.mask].numpy()


def octave(position: Column) -> Column:
    """Bins of half an octave: 0, 1, 2, 3, 4-5, 6-7, 8-11, ..."""
    return (2 * np.log2(position + 1.0)).astype(np.int64)


def octave_start(code: int) -> int:
    """The first position of a bin."""
    return int(np.ceil(2 ** (code / 2))) - 1


class Statistics:
    """Call `add` with every clean portion."""

    def __init__(self, method: Method):
        self.method = method
        self.total, self.mismatch, self.drift = Moments(), Moments(), Moments()
        self.groups: dict[str, dict[int, Column]] = {}
        self.responses = self.tokens = self.longest = 0
        self.surprise = 0.0
        self.log_weights = np.full(2, -np.inf)  # log of the sums of whole-response ratios, and of their squares
        self.rewards: dict[float, int] = {}
        self.steps: dict[int, int] = {}

    def add(self, table: Table) -> Column | None:
        """Returns the verdicts on the tokens, where there is a pi."""
        self.responses += len(table.lengths)
        self.tokens += len(table)
        self.surprise -= table.mu.sum()
        self.longest = max(self.longest, int(table.lengths.max(initial=0)))
        if table.pi is None or not len(table):
            return None
        self.total.add(table.log_ratio)
        if table.old is not None:
            self.mismatch.add(np.clip(table.old - table.mu, -20, 20))
            self.drift.add(np.clip(table.pi - table.old, -20, 20))
        weight = table.sums(table.log_ratio)[table.lengths > 0]
        self.log_weights = np.logaddexp(self.log_weights, [np.logaddexp.reduce(k * weight) for k in (1, 2)])
        reason = verdicts(table, self.method)
        self._group(table, reason)
        return reason

    def _group(self, table: Table, reason: Column) -> None:
        """Add SUMS of the portion's tokens to those of their groups."""
        assert table.pi is not None
        d, tv = table.log_ratio, abs(np.exp(np.minimum(table.pi, 0)) - np.exp(np.minimum(table.mu, 0)))
        values = np.stack([np.ones(len(d)), abs(d), d, np.expm1(d) - d, tv, reason >= Reason.TOKEN])
        kept = table.lengths > 0
        per_row = np.add.reduceat(values, table.starts[kept], axis=1)
        steps = np.array([self.steps.setdefault(s, len(self.steps)) for s in table.steps.tolist()]).clip(max=MOST)
        codes = {
            "step_position": table.spread(steps) * STRIDE + octave(table.position),
            "turn": np.minimum(table.turn, 63),
            "sign": np.sign(table.advantages).astype(np.int64) + 1,
            "length": octave(table.lengths[kept]),
            "reward": np.array([self._reward(reward) for reward in table.rewards[kept].tolist()]),
        }
        for name, code in codes.items():
            if len(code) == len(table) and (code == table.spread(code[table.starts % len(code)])).all():
                code = code[table.starts[kept]]  # one a response
            part, known = values if len(code) == len(table) else per_row, code >= 0
            sums = np.stack([np.bincount(code[known], row) for row in part[:, known]], axis=1)
            into = self.groups.setdefault(name, {})
            for found in np.flatnonzero(sums[:, 0]).tolist():
                into[found] = into.get(found, 0) + sums[found]

    def _reward(self, reward: float) -> int:
        """The number of a reward among those met, -1 unknown; of more than 40 the nearest of the first 40."""
        if reward != reward:
            return -1
        if reward not in self.rewards and len(self.rewards) >= 40:
            reward = min(self.rewards, key=lambda known: abs(known - reward))
        return self.rewards.setdefault(reward, len(self.rewards))

    @property
    def ess_responses(self) -> float:
        """Of whole-response ratios: how many independent responses the sample is worth, as a share."""
        one, two = self.log_weights
        return float(np.exp(2 * one - two) / max(self.responses, 1)) if np.isfinite(one) else 1.0

    def table_of(self, name: str) -> list[dict[str, float]]:
        """Means of each group by "position", "length", "sign", "reward", "step" or "turn", in its order."""
        rewards, steps = list(self.rewards), [*self.steps, -1]
        labels: dict[str, Callable[[int], float]] = {
            "position": lambda code: octave_start(code % STRIDE),
            "step": lambda code: steps[code // STRIDE],
            "length": octave_start,
            "sign": lambda code: code - 1,
            "reward": lambda code: rewards[code],
            "turn": int,
        }
        found = self._joined("step_position" if name in ("position", "step") else name, labels[name])
        return [{name: label, **means(row)} for label, row in sorted(found.items(), key=lambda item: item[0])]

    def heat(self) -> list[dict[str, float]]:
        """Means by step and position: of more than 40 steps neighbours are joined under the first of them."""
        steps, ordered = list(self.steps), sorted(self.steps)
        under = {step: ordered[i - i % -(-len(steps) // 40)] for i, step in enumerate(ordered)}
        found = self._joined("step_position", lambda c: (under[steps[c // STRIDE]], octave_start(c % STRIDE)))
        return [{"step": step, "position": position, **means(row)} for (step, position), row in found.items()]

    def _joined(self, name: str, label: Callable[[int], Any]) -> dict[Any, Column]:
        """The groups of one label taken together."""
        joined: dict[Any, Column] = {}
        for code, row in self.groups.get(name, {}).items():
            joined[label(code)] = joined.get(label(code), 0) + row
        return joined


def means(sums: Column) -> dict[str, float]:
    """The means behind a row of sums."""
    return {"tokens": float(sums[0])} | dict(zip(SUMS[1:], (sums[1:] / sums[0]).tolist(), strict=True))
