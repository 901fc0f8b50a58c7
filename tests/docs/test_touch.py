"""The page that one touches, in a real browser: it says what Python says, by pointer and keys, and asks no network."""

import json

import numpy as np
import pytest

pytest.importorskip("sphinx", reason="the site needs Sphinx: pip install -c constraints.txt -e '.[site]'")

from docs.site import build, vendor
from minicppo.reference import LOOPS, Response, cppo_steps, dynamic_budget, linear_weights
from tests.browser import Browser, needs_browser

pytestmark = [pytest.mark.slow, needs_browser]
NAMES = ["", "toward", "inside", "token", "prefix", "both"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    if not all((vendor.VENDOR / name).is_dir() for name in vendor.PACKAGES):
        pytest.skip("pyodide is not there: python -m docs.site.vendor fetches it")
    build.touchable(folder)
    build.vendored(folder / "_static")
    window = Browser(folder)
    yield window
    window.close()


def states(count):
    """Responses and settings of many shapes."""
    rng = np.random.default_rng(7)
    for i in range(count):
        n = int(rng.integers(1, 60))
        mu = rng.uniform(0.01, 0.99, n)
        pi = np.clip(mu + rng.normal(0, rng.choice([0.01, 0.1, 0.4]), n), 0.001, 0.999)
        pi = np.where(rng.random(n) < 0.1, mu, pi)
        yield {
            "mu": mu.tolist(), "pi": pi.tolist(), "D": np.abs(pi - mu).tolist(), "A": float(rng.choice([-1, 0, 0.5])),
            "delta": float(rng.uniform(0.01, 0.4)), "delta_b": float(rng.uniform(0, 0.1)),
            "w_min": float(rng.uniform(0.05, 1)), "budget": ["fixed", "dynamic", "off"][i % 3],
        }  # fmt: skip


def wanted(state):
    """Python's verdicts: each rule's tokens that are kept, and CPPO's reasons."""
    response = Response(state["mu"], state["pi"], [state["A"]] * len(state["mu"]), given_divergence=state["D"])
    cppo = {key: state[key] for key in ("delta", "delta_b", "w_min", "budget")}
    weights = {
        "ppo": LOOPS["ppo"](response, clip_low=0.2, clip_high=0.28),
        "dppo": LOOPS["dppo"](response, delta=state["delta"]),
        "cppo": LOOPS["cppo"](response, **cppo),
    }
    allowed = {"off": None, "fixed": state["delta_b"]}
    found = cppo_steps(
        state["D"],
        response.away(),
        delta=state["delta"],
        delta_b=allowed.get(state["budget"], dynamic_budget(state["D"], state["delta_b"])),
        weights=linear_weights(len(state["D"]), state["w_min"]),
    )
    kept = {name: [g != 0 for g in weight] for name, weight in weights.items()}
    return {**kept, "reason": [step.reason for step in found]}


def test_twin_and_library_in_the_page_are_python(browser):
    chosen = list(states(200))
    browser.open("explorable/index.html")
    script = """const ask = await window.library, states = JSON.parse(given[0]);
    return JSON.stringify(states.map(state => [verdicts(state), ask(state), differences(state, ask)]))"""
    masked = 0
    found = json.loads(browser.run(script, json.dumps(chosen)))
    for state, (twin, library, different) in zip(chosen, found, strict=True):
        python = wanted(state)
        assert {key: library[key] for key in python} == python
        assert {rule: [code < 3 for code in twin[rule]] for rule in ("ppo", "dppo", "cppo")} | {
            "reason": [NAMES[code] for code in twin["cppo"]]
        } == python
        assert different == 0
        masked += python["cppo"].count(False)
    assert masked > 500, "masks are idle"


READ = """return {at: at + 1, D: state.D[at], count: document.getElementById("told-cppo").textContent,
said: document.getElementById("message").textContent, why: document.getElementById("why").textContent}"""


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_a_bar_is_dragged(browser, kind):
    browser.open("explorable/index.html", 390 if kind == "touch" else 1100)
    box = "const b = document.getElementById('dppo').getBoundingClientRect(); return [b.left, b.top, b.width]"
    left, top, width = browser.run(box)
    x = left + 34 + 20.5 * (width - 34) / 44  # the 21st of 44 tokens
    browser.drag((x, top + 95), (x, top + 20), kind)
    found = browser.run(READ)
    assert found["at"] == 21
    assert 0.15 < found["D"] <= 0.3
    assert "DPPO masks it" in found["why"]


def test_everything_works_without_a_pointer(browser):
    browser.open("explorable/index.html")
    before = browser.run(READ)
    assert "CPPO keeps token 36, which DPPO masks" in before["said"], "the default state carries the message"
    for _ in range(30):
        browser.press("tab")
        if browser.run("return document.activeElement.id") == "cppo":
            break
    browser.press("right", "up", "up")
    after = browser.run(READ)
    assert (after["at"], round(after["D"], 3)) == (10, round(0.004 + 0.004 * np.sin(1.7 * 9) ** 2 + 0.01, 3))
    reached = set()
    for _ in range(40):
        browser.press("tab")
        reached.add(browser.run("return document.activeElement.id || document.activeElement.textContent"))
    assert {"at", "D", "turn", "reset", "delta", "delta_b", "w_min", "T", "A", "budget"} <= reached
    assert {"Early burst", "Late burst", "Long horizon", "A real trace"} <= reached


def test_sliders_change_what_is_masked(browser):
    browser.open("explorable/index.html")
    counts = browser.run("""const all = [];
      for (const [id, value] of [["delta_b", .1], ["delta", .01], ["A", -1], ["A", 0], ["T", 10]]) {
        document.getElementById(id).value = value;
        document.getElementById(id).dispatchEvent(new Event("input"));
        all.push(found.cppo.filter(code => code > 2).length);
      }
      return [...all, T]""")
    assert counts[0] < counts[1]
    assert counts[3] == 0
    assert counts[5] == 1024


def test_no_network_and_no_complaint(browser):
    for width in (390, 1280):
        browser.open("explorable/index.html", width)
        browser.run("await window.library; return 1")
        asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert any("pyodide.asm.wasm" in address for address in asked)
        assert all(address.startswith((browser.address, "data:")) for address in asked)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.errors() == []
