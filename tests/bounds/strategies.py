"""Hypothesis strategies over tabular policies and budgets, tested in test_tabular.py."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from minicppo.bounds.budget import Budget, Form
from minicppo.bounds.tabular import Array, Pair, uniform_prior

FEW = settings(max_examples=30)
"""For tests that enumerate a tree an example."""

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
def pairs(draw: st.DrawFn, exact: bool = False, prompts: int = 1) -> Pair:
    """mu with full support, pi with zeros allowed; float64 or Fraction."""
    vocab, horizon = draw(st.sampled_from(SHAPES))
    levels = [prompts * vocab**t for t in range(horizon)]
    mu = tuple(_rows(draw, rows, vocab, 1, exact) for rows in levels)
    pi = tuple(_rows(draw, rows, vocab, 0, exact) for rows in levels)
    return Pair(mu, pi, uniform_prior(prompts, exact))


@st.composite
def pairs_with_rewards(draw: st.DrawFn, exact: bool = False, prompts: int = 1) -> tuple[Pair, Array]:
    """A pair and one reward in [-1, 1] per leaf, as multiples of 1/4."""
    pair = draw(pairs(exact, prompts))
    leaves = prompts * pair.vocab**pair.horizon
    quarters = draw(st.lists(st.integers(-4, 4), min_size=leaves, max_size=leaves))
    if exact:
        return pair, np.array([Fraction(q, 4) for q in quarters], dtype=object)
    return pair, np.array(quarters) / 4


def thresholds() -> st.SearchStrategy[tuple[float, float, float]]:
    """(delta, delta_b, w_min), dyadic; delta_b may exceed delta."""
    grid: Any = st.integers(1, 24).map(lambda k: k / 32)
    return st.tuples(grid, st.integers(0, 12).map(lambda k: k / 64), st.sampled_from([0.25, 0.5, 0.75, 1.0]))


@st.composite
def pairs_with_budget(draw: st.DrawFn, form: Form = "algorithm") -> tuple[Pair, Budget]:
    """Any pair and a budget of its horizon; `families.budgeted` makes the pair meet it."""
    pair = draw(pairs())
    delta, delta_b, w_min = draw(thresholds())
    return pair, Budget.linear(pair.horizon, delta, delta_b, w_min, form)
