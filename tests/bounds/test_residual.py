"""Edges of the bounds; that they hold, and how sharp they are, is checked in theory/."""

import numpy as np
import pytest

from minicppo.bounds import residual, sharper
from minicppo.bounds.budget import Budget


def test_suffix_bounds_against_loops():
    caps = np.array([0.5, 0.25, 0.125, 0.0625])
    for t in range(4):
        assert residual.suffix_sums(caps)[t] == sum(caps[t + 1 :])
        assert residual.suffix_products(caps)[t] == 1 - np.prod(1 - caps[t + 1 :])


def test_one_token_has_no_residual():
    assert residual.theorem1_eq8(Budget.linear(1)) == residual.theorem1(1, 0.15, 0.02) == 0
    assert sharper.uniform_supremum(1, 0.15) == sharper.cap_theorem(np.array([0.15])) == 0


def test_chi_square_budget_is_exact_when_small_and_infinite_when_large():
    assert sharper.chi_square_budget(1e-3) == pytest.approx(1e-3 / np.sqrt(2), rel=1e-3)
    assert sharper.chi_square_budget(9.9e-5) == pytest.approx(sharper.chi_square_budget(1.01e-4) * 9.9 / 10.1, rel=1e-4)
    assert sharper.chi_square_budget(1e4) == np.inf
