"""The ordinary properties catch a wrong new method: bugs planted in a plugin that has a right loop twin.

Each is caught by `method_properties.check_method` at the number of examples that every test run draws.
"""

import re
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings

from minicppo.plugins import load_plugins
from minicppo.reference import LOOPS
from minicppo.rules import FAMILIES, METHODS
from tests.rules.method_properties import check_method

pytestmark = pytest.mark.slow  # tests of the tests
ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).with_name("widening_clip.py").read_text(encoding="utf-8")
BUGS = {  # what stands in the plugin, and what a careless author would have written
    "the padded width for the own length": ("length = batch.lengths[:, None]", "length = 0 * rank + valid.shape[1]"),
    "holes count as positions": ("rank = valid.cumsum(1) - 1", "rank = valid.new_ones(valid.shape).cumsum(1) - 1"),
    "positions off by one": ("rank = valid.cumsum(1) - 1", "rank = valid.cumsum(1)"),
    "no lower clip": ("clipped |= (A < 0) & (rho < 1 - b)", "pass"),
    "no widening along the response": ("w = 1 - (1 - self.w_min) * rank", "w = 1 - 0 * rank"),
    "a dynamic limit that never leaves its floor": ("(self.clip, 2 * self.clip)", "(self.clip, self.clip)"),
    "a dynamic limit without a cap": ("(self.clip, 2 * self.clip)", "(self.clip)"),
    "a clip of both directions": ("clipped = (A > 0) & ", "clipped = "),
    "g without the ratio": ("~clipped, rho)", "~clipped, 0 * rho + 1)"),
}


@pytest.fixture(autouse=True)
def unshrunk(monkeypatch):
    """What a bug shrinks to is of no interest here, nor by which shape it shows."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    settings.load_profile("unshrunk")
    yield
    settings.load_profile("minicppo")


def check(source: str, folder: Path) -> None:
    """The plugin of this source, loaded and its new methods put to every property; then forgotten."""
    path = folder / "plugin.py"
    path.write_text(source, encoding="utf-8")
    with mock.patch.dict(METHODS), mock.patch.dict(FAMILIES), mock.patch.dict(LOOPS):
        before = set(METHODS)
        load_plugins([path])
        (new,) = set(METHODS) - before
        check_method(METHODS[new])


def test_the_right_method_passes(tmp_path):
    check(PLUGIN, tmp_path)
    assert "widening-clip" not in METHODS


def test_the_worked_example_passes(tmp_path):
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"### Add a method.*?```python\n(.*?)```", contributing, re.S)
    check(code, tmp_path)


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_one_is_caught(bug, tmp_path):
    right, wrong = BUGS[bug]
    assert PLUGIN.count(right) == 1
    with pytest.raises(AssertionError):
        check(PLUGIN.replace(right, wrong), tmp_path)
