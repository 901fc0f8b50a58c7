"""Set-up of the rules' tests."""

import pytest


@pytest.fixture(autouse=True)
def unchecked_shapes(request, monkeypatch):
    """Of many examples of few shapes: checking each call's annotations takes three times the mask itself."""
    if hasattr(request.function, "hypothesis"):
        monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
