"""The greedy optimum against the simplex, and programmes that have no grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds.budget import Budget
from theory import programs
from theory.tabular import Array


def vectors(size: int) -> st.SearchStrategy[Array]:
    numbers = st.integers(0, 64).map(lambda k: k / 16)
    return st.lists(numbers, min_size=size, max_size=size).map(np.array)


@pytest.mark.slow
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(vectors(n), vectors(n), vectors(n))))
def test_greedy_is_the_simplex_optimum(case):
    coefficients, caps, limits = case
    value, z = programs.greedy(coefficients, caps, limits)
    assert value == pytest.approx(programs.linear_program(coefficients, caps, limits), abs=1e-9)
    assert (z <= caps + 1e-12).all()
    assert (np.cumsum(z) <= limits + 1e-12).all()


def test_a_programme_without_a_grid_is_refused():
    with pytest.raises(ValueError, match=r"delta=0"):
        programs.exact_supremum(Budget(0.0, 0.1, np.ones(2)))
    with pytest.raises(ValueError, match="positive weights"):
        programs.exact_supremum(Budget.linear(3, w_min=0.0))
