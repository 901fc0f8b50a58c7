"""What a certificate can say of long responses: `python -m theory.long` (the table at T = 8,192, and coverage).

Responses of the same token distribution at every position but a few that decide the reward: how often each token came
up is then all that matters, so that 8,192 tokens cost no more than 64 and every truth is known in closed form.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from minicppo.bounds.certificate import gain_columns
from minicppo.bounds.limits import betting_limit, student_limits
from minicppo.bounds.sharper import expected_budget
from minicppo.cli.console import console, table
from theory.tabular import Array

# Mean TV, gain and L' of three policies at T = 8,192; the lower limits found for them earlier, with 1,024 responses:
# L' - F5, J(pi) by importance sampling, by betting with m capped at 4 (one-sided 95 %, J(mu) known). The last column,
# how many tokens decide, is ours: the policies themselves were not kept, and this changes the limits by .003.
TABLE = (
    (0.00062, 0.118, 0.096, -6.0, 0.090, 0.085, 2),
    (0.00181, 0.118, 0.102, -15.7, 0.091, 0.084, 2),
    (0.00296, 0.169, 0.146, -25.1, 0.128, 0.111, 3),
)
HORIZONS = (4, 64, 1024, 8192)


@dataclass(frozen=True)
class LongPair:
    """R = 1 if all of `decisive` tokens are right: mu says each with chance `right`, pi with right * (1 + lift).

    background (V,): x = rho - 1 of the other tokens, which mu draws uniformly.
    """

    horizon: int
    decisive: int
    right: float
    lift: float
    background: Array

    @property
    def before(self) -> float:
        """J(mu)."""
        return float(self.right**self.decisive)

    @property
    def gain(self) -> float:
        """J(pi) - J(mu)."""
        return self.before * ((1 + self.lift) ** self.decisive - 1)

    def draw(self, rng: np.random.Generator, *shape: int) -> tuple[Array, ...]:
        """sum x, m - 1, R and sum |x| / 2 of responses of mu, each of the shape asked for."""
        others = self.horizon - self.decisive
        vocab = len(self.background)
        counts = rng.multinomial(others, np.full(vocab, 1 / vocab), size=shape)
        hits = rng.binomial(self.decisive, self.right, size=shape)
        wrong = -self.right * self.lift / (1 - self.right)
        total = counts @ self.background + hits * self.lift + (self.decisive - hits) * wrong
        log_m = counts @ np.log1p(self.background) + hits * np.log1p(self.lift)
        log_m += (self.decisive - hits) * np.log1p(wrong)
        size = counts @ abs(self.background) + hits * self.lift - (self.decisive - hits) * wrong
        return total, np.expm1(log_m), (hits == self.decisive).astype(float), size / 2


def with_values(
    mean_tv: float, gain: float, surrogate: float, decisive: int, horizon: int = 8192, vocab: int = 64
) -> LongPair:
    """The pair with that mean TV, gain and exact L'; background ratios are normal over the vocabulary."""
    low, high = 1e-6, 3.0
    for _ in range(60):  # ((1 + e)^k - 1) / (k e) grows with e
        lift = (low + high) / 2
        above = ((1 + lift) ** decisive - 1) / (decisive * lift) > gain / surrogate
        low, high = (low, lift) if above else (lift, high)
    right = (surrogate / (decisive * lift)) ** (1 / decisive)
    noise = np.random.default_rng(0).normal(size=vocab)
    noise -= noise.mean()
    scale = (mean_tv * horizon - decisive * right * lift) / (horizon - decisive)
    return LongPair(horizon, decisive, right, lift, noise * scale / (abs(noise).mean() / 2))


def limits_of(pair: LongPair, batches: int = 200, responses: int = 1024, seed: int = 0) -> dict[str, float]:
    """Means over batches: the worst residual, and lower limits of the gain in the earlier way and in certify's."""
    rng = np.random.default_rng(seed)
    total, change, rewards, size = pair.draw(rng, batches, responses)
    xi, advantages = 0.5, rewards - rewards.mean(axis=1, keepdims=True)
    residual, exact, importance, bets, *_ = gain_columns(total, change, rewards, advantages)
    found = {
        "mean TV": size / pair.horizon,
        "gain": np.array(pair.gain),
        "L'": total * rewards,
        "L' - F5": student_limits(total * advantages)[0]
        - np.array([expected_budget(u, xi) for u in size.mean(axis=1)]),
        "xi |K|": residual,
        "J(pi), Student": student_limits((1 + change) * rewards, 0.9)[0] - pair.before,
        "J(pi), betting": 4 * betting_limit(np.minimum(1 + change, 4) * rewards / 4, 0.9) - pair.before,
        "L' - xi |K|": student_limits(exact)[0],
        "importance": student_limits(importance)[0],
        "betting": betting_limit(bets) - 1,
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def coverage(draws: int = 2000, groups: int = 256, group_size: int = 4, seed: int = 0) -> dict[int, dict[str, float]]:
    """By horizon: how often 95 % intervals contain L', xi |K| and the gain, and how often lower limits lie below it."""
    rng = np.random.default_rng(seed)
    noise = np.array([-2.0, -1, -1, 0, 0, 1, 1, 2])
    found: dict[int, dict[str, float]] = {}
    for horizon in HORIZONS:
        pair = LongPair(horizon, 2, 0.6, 0.1, noise * (0.1 / horizon) ** 0.5)
        total, change, rewards, _ = pair.draw(rng, draws, groups, group_size)
        others = (rewards.sum(axis=-1, keepdims=True) - rewards) / (group_size - 1)
        columns = gain_columns(total, change, rewards, rewards - others)
        residual, exact, importance, bets = (c.mean(axis=-1) for c in columns[:4])
        truths = {"xi |K|": (residual, residual.mean()), "importance": (importance, pair.gain)}
        truths["L'"] = ((total * (rewards - others)).mean(axis=-1), pair.before * pair.decisive * pair.lift)
        row = {}
        for name, (values, truth) in truths.items():
            low, high = student_limits(values)
            row[name] = float(((low <= truth) & (truth <= high)).mean())
        row["residual below"] = float((student_limits(exact)[0] <= pair.gain).mean())
        row["betting below"] = float((betting_limit(bets) - 1 <= pair.gain).mean())
        found[horizon] = row
    return found


def show(title: str, rows: dict[str, dict[str, float]], digits: int) -> Table:
    """Rows by name, a column each value."""
    told = [[name, *(f"{value:.{digits}g}" for value in row.values())] for name, row in rows.items()]
    return table(["", *next(iter(rows.values()))], told, title, words=0)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = {
        f"{tv:.4f}": limits_of(with_values(tv, gain, surrogate, decisive))
        for tv, gain, surrogate, *_, decisive in TABLE
    }
    console.print(show("T = 8,192, 1,024 responses: lower limits of the gain, means of 200 batches", rows, 3))
    shares = {f"T = {horizon}": row for horizon, row in coverage().items()}
    console.print(show("coverage over 2,000 draws of 256 groups of 4; nominal .95, below: at least .975", shares, 4))
