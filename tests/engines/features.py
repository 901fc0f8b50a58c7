"""Names of features, on the tests that show them: `docs.tools.features` makes the table of docs/drop-in.md of them.

A test is decorated with `@feature(name, verdict)`, a case of one made by `works(name, ...)` or `refused(name, ...)`.
"""

from typing import Any

import pytest

feature = pytest.mark.feature


def works(name: str, *values: Any, marks: Any = ()) -> Any:
    """A case that trains rightly."""
    return pytest.param(*values, id=name, marks=[feature(name, "works"), *marks])


def refused(name: str, *values: Any) -> Any:
    """A case that ends in an error with the way out."""
    return pytest.param(*values, id=name, marks=feature(name, "refused"))
