"""The training explorer in a real browser: it plays, by pointer and by keys, what was recorded."""

import json

import pytest

pytest.importorskip("sphinx", reason="the site needs Sphinx: pip install -c constraints.txt -e '.[site]'")

from docs.site import build
from docs.tools.explorer import EVERY, PATH, SHOWN
from experiments.demo import METHODS
from tests.browser import Browser, needs_browser

RUN = json.loads(PATH.read_text(encoding="utf-8"))


def test_the_record_is_whole():
    assert tuple(RUN) == METHODS
    for frames in RUN.values():
        assert [frame["iteration"] for frame in frames] == list(range(EVERY, 61, EVERY))
        for frame in frames:
            assert len(frame["responses"]) == SHOWN
            for each in frame["responses"]:
                assert len(each["tokens"]) == len(each["mu"]) == len(each["pi"]) == len(each["reason"])
    assert all(frame["share"] == 0 for frame in RUN["none"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build.touchable(folder)
    window = Browser(folder)
    yield window
    window.close()


@pytest.mark.slow
@needs_browser
def test_it_plays_and_is_played(browser):
    for width in (390, 1280):
        browser.open("explorer/index.html", width)
        assert browser.run("return document.documentElement.scrollWidth") <= width
    while browser.run("return document.activeElement.id") != "play":
        browser.press("tab")
    browser.press("space")
    assert browser.run("return [document.activeElement.textContent, at]") == ["Pause", 0]
    browser.run("await new Promise(done => setTimeout(done, 2000)); return 1")
    assert browser.run("return at") >= 1
    browser.press("space", "tab", "right")  # pause, then the slider
    iteration = browser.run("return +document.getElementById('now').value")
    assert f"After {iteration} iterations" in browser.run("return document.getElementById('message').textContent")
    found = browser.run("""document.querySelector('[data-name=grpo]').click();
      document.querySelectorAll('.tokens button')[3].click();
      return [method, document.getElementById('token').textContent, document.getElementById('share').textContent]""")
    assert found[0] == "grpo"
    assert found[1].startswith("Token 4 ")
    assert "GRPO masks" in found[2]
    asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(address.startswith((browser.address, "data:")) for address in asked)
    assert browser.errors() == []
