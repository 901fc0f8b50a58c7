"""A one-token shift between log mu and log pi: which responses have it, by a test, and how it is put back."""

from dataclasses import replace
from typing import Any

import numpy as np

from minicppo.inspect.table import Column, Table

BLOCK = 8  # neighbouring tokens that the test takes as one witness
SURE = 4.5  # standard errors
TESTED = 1 << 16  # tokens of a portion, enough for any verdict
Fits = dict[int, Column]  # of each response, by shift


def put_back(table: Table) -> tuple[Table, Column, str]:
    """The table with log pi where it belongs; which responses it was moved in, (B,) bool; and the evidence.

    Where the test says so of the whole, it is moved in all but those that clearly fit as they are; else in those that
    clearly fit one place off, if the test says so of them.
    """
    fits = {shift: misfit(table, shift) for shift in (0, 1, -1)}
    errors, shift = max((belonging(table, shift), shift) for shift in (1, -1))
    rows = ~clear(fits, 0, shift)
    if errors < SURE:
        some = {shift: clear(fits, shift, 0) for shift in (1, -1)}
        errors, shift = max((belonging(table.responses(rows), shift), shift) for shift, rows in some.items())
        rows = some[shift]
    if errors < SURE:
        return table, np.zeros(len(rows), bool), ""
    text = f"log pi stands one place too {'early' if shift > 0 else 'late'}: it goes with log mu of the "
    text += f"{'next' if shift > 0 else 'previous'} token, not of its own, by {errors:.0f} standard errors"
    return moved(table, shift, rows), rows, text


def misfit(table: Table, shift: int) -> Column:
    """(B,) means of |log mu_t - log pi_(t - shift)| up to 3 nats; NaN of fewer than eight tokens."""
    assert table.pi is not None
    n, s = len(table), min(abs(shift), len(table))
    gap, same = np.zeros(n), table.position >= s  # both of one response
    mu, pi = (table.mu[s:], table.pi[: n - s]) if shift >= 0 else (table.mu[: n - s], table.pi[s:])
    gap[s:] = np.minimum(abs(mu - pi), 3) * same[s:]
    count = table.sums(same)
    return table.sums(gap) / np.where(count < 8, np.nan, count)


def clear(fits: Fits, here: int, there: int) -> Column:
    """(B,) which responses fit here at half the misfit of there; none, unless far more than fit the third way so well.

    The third shift is the control: drift knows no direction.
    """
    (third,) = fits.keys() - {here, there}
    better, chance = (fits[shift] < 0.5 * fits[there] for shift in (here, third))
    return better & (better.sum() >= max(3, 0.03 * len(better) + 3 * chance.sum()))


def belonging(table: Table, shift: int) -> float:
    """By how many standard errors log pi_(t - shift) depends more on log mu_t than on its own or the opposite token's.

    Least squares of pi on mu of all three tokens, each less its mean at that place and sign of advantage: what drift
    does to pi, and likeness of neighbours, leave such coefficients in order. Of probabilities, and of log-probs without
    their tail: strong drift hides one or the other. Errors by leaving out each block of tokens.
    """
    assert table.pi is not None
    place = table.position
    at = np.flatnonzero((place > 0) & (place < table.spread(table.lengths) - 1))[:TESTED]
    if len(at) < 4 * BLOCK:
        return 0.0
    starts = np.flatnonzero(np.diff((table.row[at] << 32) + place[at] // BLOCK, prepend=-1))
    found = []
    for scale in (lambda v: np.exp(np.minimum(v, 0)), lambda v: np.log(0.02 - np.minimum(v, 0))):
        mu, pi = (own(scale(values), table) for values in (table.mu, table.pi))
        three = np.stack([mu[at + shift], mu[at], mu[at - shift]])
        products = np.concatenate([three[:, None] * three, three[:, None] * pi[at]], 1)
        parts = np.add.reduceat(products, starts, axis=2).transpose(2, 0, 1)  # (blocks, 3, 4)
        left = parts.sum(0) - parts
        ridge = np.eye(3) * (1e-6 * np.trace(parts.sum(0)[:, :3]) + 1e-9)
        fits = np.linalg.solve(left[..., :3] + ridge, left[..., 3:])[..., 0]
        ahead = fits[:, :1] - fits[:, 1:]
        found.append((ahead.mean(0) / np.maximum(np.sqrt((len(parts) - 1) * ahead.var(0)), 1e-9)).min())
    return float(max(found))


def own(values: Column, table: Table) -> Column:
    """Less the mean of all tokens at the same place with the same sign of advantage; where fewer than three, of all."""
    key = 3 * table.position + np.sign(table.advantages).astype(np.int64) + 1
    count = np.bincount(key)
    return values - np.where(count < 3, values.mean(), np.bincount(key, values) / count.clip(1))[key]


def moved(table: Table, shift: int, rows: Column) -> Table:
    """The table with log pi (and log pi_old, of the same trainer) of some responses `shift` places later.

    Tokens for which nothing is left are out.
    """
    place, chosen = table.position - shift, table.spread(rows)
    source = (np.arange(len(table)) - shift).clip(0, len(table) - 1)
    inside = (place >= 0) & (place < table.spread(table.lengths))
    both: dict[str, Any] = {"pi": table.pi, "old": table.old}
    both = {name: None if v is None else np.where(chosen, v[source], v) for name, v in both.items()}
    return replace(table, **both).only(~chosen | inside)
