"""Set-up of the rules' tests."""

import pytest


@pytest.fixture(scope="module")
def unchecked_shapes():
    """For files of many examples of few shapes: checking each call's annotations takes three times the mask itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)
        yield
