"""A file of one's own adds a method: the worked example of CONTRIBUTING.md, and what is refused."""

import re
from pathlib import Path
from unittest import mock

import pytest

from minicppo.plugins import load_plugins
from minicppo.reference import LOOPS
from minicppo.rules import FAMILIES, METHODS, get_method

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def as_before():
    """Whatever a test registers is forgotten after it."""
    with mock.patch.dict(LOOPS), mock.patch.dict(METHODS), mock.patch.dict(FAMILIES):
        yield


def written(path: Path, *changes: tuple[str, str]) -> Path:
    """The worked example as a file, with parts of it replaced."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"### Add a method.*?```python\n(.*?)```", text, re.S)
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    path.write_text(code)
    return path


def test_a_file_is_loaded_once_and_its_method_is_known_by_name(tmp_path):
    """That it equals its loop: `tests/rules/test_planted_bugs.py`."""
    file = written(tmp_path / "truncated.py")
    load_plugins([file, file])
    load_plugins([str(file)])
    assert get_method("truncated", cap=1.5).overrides == {"cap": 1.5}
    assert "truncated" in LOOPS
    with pytest.raises(ValueError, match=r"cap=0 is outside \(0, inf\]"):
        get_method("truncated", cap=0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('family = "truncated"', 'family = "dppo"', r"mine.py, line \d+: ValueError: family 'dppo' .* is taken"),
        ('@loop("truncated")', '@loop("cppo")', r"mine.py, line \d+: ValueError: family 'cppo' has a loop already"),
        ("register(Truncated(", "register(Truncated(cap=-1,", r"mine.py, line \d+: ValueError: cap=-1 is outside"),
        ('    family = "truncated"\n', "", r"mine.py, line \d+: "),
        ("@dataclass", "@@", r"mine.py, line \d+: SyntaxError"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        load_plugins([written(tmp_path / "mine.py", (old, new))])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.py: there is no such Python file"):
        load_plugins([tmp_path / "nowhere.py"])
