"""Thresholds from bounds and back."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicppo.bounds import design as dsg
from minicppo.bounds import sharper as sh
from minicppo.bounds.design import Method

METHODS = get_args(Method)


@pytest.mark.slow
@given(
    st.integers(2, 300),
    st.floats(0.01, 3),
    st.floats(0.5, 2),
    st.floats(1, 20),
    st.sampled_from([1.0, 0.8, 0.5]),
    st.sampled_from(METHODS),
)
def test_a_design_certifies_what_it_promises(horizon, residual, reward_range, burst, w_min, method):
    horizon = min(horizon, 40) if method == "mean" else horizon  # which solves programmes
    d = dsg.design_thresholds(horizon, residual, reward_range, burst, w_min, method)
    certified = dsg.certified_residual(horizon, d.delta, d.delta_b, d.w_min, reward_range, method)
    assert certified <= residual * (1 + 1e-9)
    if d.delta <= d.w_min and method != "theorem1":
        assert certified == pytest.approx(residual, rel=1e-5) or d.delta > d.w_min / 2
    if method != "uniform":
        assert d.delta == pytest.approx(burst * d.delta_b)


@pytest.mark.parametrize(
    ("horizon", "path", "theorem1", "chi2_tv"),
    [
        (16, (0.236, 0.031), (0.093, 0.012), 0.134),
        (1024, (5.2e-3, 6.9e-4), None, 0.017),
        (8192, (6.5e-4, 8.6e-5), None, 0.0059),
        (65536, (8.1e-5, 1.1e-5), None, 0.0021),
    ],
)
def test_golden_designs(horizon, path, theorem1, chi2_tv):
    found = dsg.design_thresholds(horizon, 0.5)
    assert (found.delta, found.delta_b) == pytest.approx(path, rel=0.02)
    if theorem1 is not None:
        found = dsg.design_thresholds(horizon, 0.5, method="theorem1")
        assert (found.delta, found.delta_b) == pytest.approx(theorem1, rel=0.05)
    spread = (dsg.chi_square_for(0.5, 0.5) / horizon) ** 0.5 / 2  # without bursts
    assert spread == pytest.approx(chi2_tv, rel=0.03)


def test_scaling_with_the_horizon():
    """TV thresholds fall as 1 / T, chi-square ones too, and so the TV they permit as 1 / sqrt(T)."""
    for method, power in (("path", 1.0), ("theorem1", 1.0), ("uniform", 1.0), ("chi2", 0.5)):
        short, long = (dsg.design_thresholds(t, 0.5, method=method) for t in (8192, 65536))
        assert short.tv / long.tv == pytest.approx(8**power, rel=0.01)


def test_the_paper_would_have_to_divide_by():
    for method, factor in (("path", 257), ("theorem1", 710)):
        d = dsg.design_thresholds(8192, 0.5, 1.0, 7.5, 0.8, method)
        assert 0.15 / d.delta == pytest.approx(factor, rel=1e-3)


def test_largest_horizon_stops_at_its_limit():
    assert dsg.largest_horizon(1e-9, 1e-9, limit=1000) == 1000
    assert dsg.largest_horizon(0.15, 0.02, 0.8, "mean", share=0.5) == 16  # 15 without the caps
    assert dsg.largest_horizon(0.15, 0.02, 0.8, limit=37) == dsg.largest_horizon(0.15, 0.02, 0.8, limit=38) == 37


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_residuals_grow_with_the_horizon(method):
    """The premise of the bisection in `largest_horizon`."""
    found = [dsg.certified_residual(t, 0.02, 0.004, 0.8, 1.0, method) for t in range(2, 120)]
    assert all(a < b for a, b in zip(found, found[1:], strict=False))


def test_chi_square_as_tv_by_its_kappa():
    one, four = (dsg.design_thresholds(64, 0.5, method="chi2", kappa=k) for k in (1.0, 4.0))
    assert (one.delta_b, one.tv) == (four.delta_b, pytest.approx(2 * four.tv))


def test_budgets_invert_their_bounds():
    for residual in (0.01, 0.5, 4.0):
        assert sh.path_budget(dsg.path_for(residual, 0.5), 0.5) == pytest.approx(residual)
        assert sh.chi_square_budget(dsg.chi_square_for(residual, 0.5), 0.5) == pytest.approx(residual)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 1}, "at least 2 tokens"),
        ({"residual": 0.0}, "residual=0.0 must be positive"),
        ({"w_min": 0.0}, r"w_min=0.0 must lie in \(0, 1\]"),
        ({"method": "f4"}, "unknown method 'f4'; choose one of uniform"),
    ],
)
def test_wrong_values_are_refused(change, message):
    values = {"horizon": 64, "residual": 0.5} | change
    with pytest.raises(ValueError, match=message):
        dsg.design_thresholds(**values)
