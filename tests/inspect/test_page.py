"""The page in a browser: its mask is the reference's, its sliders recompute, nothing is fetched or injected."""

import base64
import re

import numpy as np
import pytest

from minicppo.inspect import inspect
from minicppo.inspect.page import as_html, page_data, write_page
from minicppo.inspect.sections import Section
from minicppo.reference import cppo_steps, dynamic_budget, linear_weights
from tests.browser import Browser, needs_browser
from tests.inspect.made import made, records, written

EVIL = ["</script><script>document.title='evil'</script>", "<img src=x onerror=alert(1)>", "\x1b[2J\u202e", "{{data}}"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = [{**row, "step": i % 3} for i, row in enumerate(records(made("clean", 9)))]
    for row in rows:
        row["tokens"] = [EVIL[i % 4] for i in row["response_ids"]]
    found = inspect([written(folder / "log.jsonl", rows)])
    write_page([found], folder / "report.html")
    return folder / "report.html", found


@pytest.fixture(scope="module")
def browser(page):
    window = Browser(page[0].parent)
    yield window
    window.close()


def cases(count: int):
    """Responses and rules of many shapes, in float32 as the page keeps them."""
    rng = np.random.default_rng(7)
    for i in range(count):
        n = int(rng.integers(1, 40))
        mu = -rng.exponential(1.5, n).astype(np.float32)
        pi = np.minimum(mu + rng.normal(0, rng.choice([0.01, 0.2, 1.0]), n), 0).astype(np.float32)
        pi = np.where(rng.random(n) < 0.1, mu, pi)
        A = np.full(n, rng.choice([1.0, -1.0, 0.0])) if i % 3 else rng.normal(size=n)
        rule = {"delta": float(rng.uniform(0.01, 0.4)), "delta_b": float(rng.uniform(0.001, 0.1))}
        rule |= {"w_min": float(rng.uniform(0.1, 1)), "budget": str(rng.choice(["dynamic", "fixed", "off"]))}
        yield mu, pi, A.astype(np.float32), {**rule, "cap_factor": 2.0, "quantile": 0.9}


def reference(mu, pi, A, rule) -> list[str]:
    p, m = np.exp(pi.astype(float)), np.exp(mu.astype(float))
    D = np.abs(p - m).tolist()
    budget = {"off": None, "fixed": rule["delta_b"]}.get(rule["budget"], dynamic_budget(D, rule["delta_b"]))
    away = (A * (pi - mu) > 0).tolist()
    weights = linear_weights(len(D), rule["w_min"])
    return [step.reason for step in cppo_steps(D, away, delta=rule["delta"], delta_b=budget, weights=weights)]


@needs_browser
@pytest.mark.slow
def test_the_pages_mask_is_the_reference(browser):
    chosen = list(cases(1000))
    given = [[mu.tolist(), pi.tolist(), A.tolist(), rule] for mu, pi, A, rule in chosen]
    browser.open("report.html")
    found = browser.run("return given[0].map(c => cppoMask(...c).reason)", given)
    names = ["", "toward", "inside", "token", "prefix", "both"]
    masked = 0
    for codes, case in zip(found, chosen, strict=True):
        wanted = reference(*case)
        assert [names[code] for code in codes] == wanted
        masked += sum(name in ("token", "prefix", "both") for name in wanted)
    assert masked > 2000, "masks are idle"


@needs_browser
@pytest.mark.slow
def test_sliders_recompute_and_nothing_is_fetched(page, browser):
    path, found = page
    browser.requested()
    browser.open("report.html")
    share = re.match(r"CPPO masks ([\d.]+) %", browser.run('return $("share").textContent'))
    assert share is not None
    assert float(share[1]) == pytest.approx(100 * found.report["masked"], abs=0.005)
    assert browser.requested() == browser.errors() == []
    path.with_name("asking.html").write_text("<img src='http://example.invalid/x.png'>")
    browser.open("asking.html")
    assert browser.requested() == ["http://example.invalid/x.png"], "the test would see it"
    browser.open("report.html")
    shares, told, drawings = browser.run("""
      const read = () => +$("share").textContent.match(/masks ([\\d.]+)/)[1], all = [read()];
      for (const [name, value] of [["delta", -3], ["delta", 0], ["w_min", .1], ["delta_b", 0]]) {
        $(name).value = value;
        $(name).dispatchEvent(new Event("input"));
        all.push(read());
      }
      $("most").click();
      const first = document.querySelector("#tokens span");
      first.click();
      return [all, $("token").textContent, document.querySelectorAll("svg").length];
    """)
    assert shares[1] > shares[0] > shares[2] >= shares[4]
    assert shares[4] == 0, "a budget of 1 a token, a limit of 1"
    assert told.startswith("token 1: mu ")
    assert drawings > 6


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_drawn_at_the_width_of_a_phone_and_of_a_desk(browser, width):
    browser.open("report.html", width)
    assert browser.run("return document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    assert len(base64.b64decode(browser.picture())) > 20_000


def test_foreign_texts_stay_texts(page):
    text = page[0].read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    assert not any(foreign in text for foreign in ("<img", "\x1b", "\u202e"))
    assert text.count("Content-Security-Policy") == 1
    assert not re.search(r"<[^>]*(src|href)\s*=|url\(|@import", text.split("<script")[0])
    shown = as_html(Section("<b>", ("&",), [("<i>",)], ["\x07"]))
    assert all(harmless in shown for harmless in ("&lt;b&gt;", "&lt;i&gt;", "\\x07"))


def test_what_the_page_holds_is_the_log(page):
    data = page_data(page[1])
    lengths = np.frombuffer(base64.b64decode(data["responses"]["lengths"]), "<i4")
    mu = np.frombuffer(base64.b64decode(data["responses"]["mu"]), "<f4")
    log = made("clean", 9)
    assert lengths.tolist() == [len(row) for row in log["mu"]]
    assert mu == pytest.approx(np.concatenate(log["mu"]), abs=1e-6)


@pytest.mark.slow
def test_ten_thousand_responses_make_a_page_of_at_most_8_mb(tmp_path):
    rows = [{k: v[:50] if isinstance(v, list) else v for k, v in row.items()} for row in records(made("clean", 9))[:10]]
    rows = [{**row, "tokens": [f"w{i}" for i in row["response_ids"]]} for row in rows]
    found = inspect([written(tmp_path / "log.jsonl", rows * 1000)])
    assert found.report["responses"] == 10_000
    write_page([found], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 8_000_000
