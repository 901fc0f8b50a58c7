"""Hypothesis strategies over tabular policies and budgets."""

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from minicppo.bounds.budget import Budget
from theory.tabular import Array, Pair, uniform_prior

SHAPES = ((2, 1), (2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (4, 2))
"""(V, T): small enough to draw every row."""


def _rows(draw: st.DrawFn, count: int, vocab: int, low: int, exact: bool) -> Array:
    """`count` rows of next-token probabilities from integers in [low, 12]; a row of zeros becomes uniform."""
    flat = draw(st.lists(st.integers(low, 12), min_size=count * vocab, max_size=count * vocab))
    numbers = np.array(flat).reshape(count, vocab)
    numbers[numbers.sum(axis=1) == 0] = 1
    if not exact:
        return numbers / numbers.sum(axis=1, keepdims=True)
    return np.array([[Fraction(int(n), int(row.sum())) for n in row] for row in numbers], dtype=object)


@st.composite
def pairs(draw: st.DrawFn, exact: bool = False) -> Pair:
    """mu with full support, pi with zeros allowed; float64 or Fraction."""
    vocab, horizon = draw(st.sampled_from(SHAPES))
    levels = [vocab**t for t in range(horizon)]
    mu = tuple(_rows(draw, rows, vocab, 1, exact) for rows in levels)
    pi = tuple(_rows(draw, rows, vocab, 0, exact) for rows in levels)
    return Pair(mu, pi, uniform_prior(1, exact))


@st.composite
def pairs_with_budget(draw: st.DrawFn) -> tuple[Pair, Budget]:
    """Any pair and a budget of its horizon, in dyadic numbers; delta_b may exceed delta."""
    pair = draw(pairs())
    delta, delta_b = draw(st.integers(1, 24)) / 32, draw(st.integers(0, 12)) / 64
    return pair, Budget.linear(pair.horizon, delta, delta_b, draw(st.sampled_from([0.25, 0.5, 0.75, 1.0])))
