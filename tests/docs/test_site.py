"""The site: it builds without a warning, its links lead somewhere, and no page loads anything from a network."""

import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("myst_nb", reason="the site needs Sphinx: pip install -c constraints.txt -e '.[site]'")
from docs.site import build, pages, vendor
from minicppo.rules import METHODS

pytestmark = pytest.mark.filterwarnings("ignore")  # of Sphinx and its extensions; those about pages are errors to it
needs_vendor = pytest.mark.skipif(
    shutil.which("npm") is None and not vendor.VENDOR.is_dir(), reason="neither npm nor the files it fetches are there"
)


class Page(HTMLParser):
    """Where the links of a page lead, what it loads, and which anchors it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found.get("id"), found.get("name")}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "link", "iframe", "source"):
            self.loads += [found[key] for key in ("src", "href") if found.get(key)]


def test_generated_pages_name_everything():
    found = pages.generated()
    assert all(f"\n## {name}\n" in found["reference/hyper-parameters.md"] for name in METHODS)
    assert "| `train.iterations` |" in found["reference/configuration.md"]


def test_every_page_of_documentation_is_in_the_contents():
    listed = {path for patterns in build.PARTS.values() for pattern in patterns for path in build.ROOT.glob(pattern)}
    written = {path for folder in ("docs", "theory", "results") for path in (build.ROOT / folder).rglob("*.md")}
    assert {path for path in written - listed if path.parent != build.HERE} == set()


@pytest.mark.slow
@needs_vendor
def test_it_builds_and_every_link_leads_somewhere():
    """From the notebooks as they are committed: executing them is another test's work."""
    assert build.build(build.ROOT / "notebooks") == 0
    found = {path.resolve(): Page(path) for path in build.HTML.rglob("*.html")}
    assert len(found) > 50
    broken = []
    for path, page in found.items():
        assert not [load for load in page.loads if load.startswith(("http:", "https:", "//"))], path
        assert "\n<p>|" not in path.read_text(encoding="utf-8"), f"{path}: a row of a table stands outside it"
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = found.get(target)
            if not target.exists() or (known and parts.fragment and unquote(parts.fragment) not in known.anchors):
                broken.append(f"{path.name}: {link}")
    assert not broken
