"""What only the loops have: plain numbers in, plain numbers out, no torch, every branch."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given

from minicppo import reference
from tests.rules.strategies import limits, responses
from tests.rules.twins import steps


def test_the_reference_does_without_torch():
    code = "import sys, minicppo.reference; assert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_keep_the_callers_numbers():
    assert reference.linear_weights(3, Fraction(4, 5)) == [1, Fraction(9, 10), Fraction(4, 5)]
    assert reference.linear_weights(1, Fraction(4, 5)) == [Fraction(1)]


@pytest.mark.parametrize("kind", ["reciprocal", "sigmoid"])
def test_soft_gate_without_a_budget(kind):
    steps = reference.cppo_steps([0.3, 0.1, 0.3], [True, True, False], delta=0.15, delta_b=None, weights=[1] * 3)
    first, second, third = reference.soft_gate(steps, delta=0.15, delta_b=None, kind=kind)
    assert (second, third) == (1, 1)
    assert 0 < first <= 0.5
    assert reference.budget_gate(steps, delta=0.15, delta_b=None) == [0.5, 1, 1]


@given(responses((1, 2, 3, 5, 9)), limits())
def test_loop_runs_in_fractions(response, lim):
    """theory 01. The loop is exact: floats on dyadic numbers equal the same loop in rationals."""
    delta, delta_b, w_min = map(Fraction, lim)
    weights, D = reference.linear_weights(len(response), w_min), [Fraction(d) for d in response.divergence]
    exact = reference.cppo_steps(D, response.away, delta=delta, delta_b=delta_b, weights=weights)
    assert [tuple(x) for x in exact] == [tuple(x) for x in steps(response, lim)]
    assert all(isinstance(x.threshold, Fraction) for x in exact)
