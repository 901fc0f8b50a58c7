"""Pages run in a headless Chromium, without a network: what stands in them afterwards, and what they asked for."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(BROWSER is None, reason="Debian's chromium is not installed")


def dom(page: Path, width: int = 1100, picture: Path | None = None) -> str:
    """The document after its scripts have run."""
    assert BROWSER is not None
    profile = page.parent / "profile"
    asked = ["--dump-dom"] if picture is None else [f"--screenshot={picture}"]
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    options += [
        f"--user-data-dir={profile}",
        f"--window-size={width},2400",
        f"--log-net-log={page.parent / 'net.json'}",
    ]
    done = subprocess.run(
        [BROWSER, *options, *asked, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def requested(page: Path) -> list[str]:
    """The addresses that loading the page asked a network for."""
    events = json.loads((page.parent / "net.json").read_text())["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    by_pages = [each["url"] for each in asked if each["initiator"] != "not an origin"]  # else the browser's own
    return [address for address in by_pages if address.startswith(("http", "ws", "//"))]


def with_script(page: Path, script: str) -> Path:
    """A copy of the page with a script at its end, which leaves its result in the title."""
    copy = page.with_name("scripted.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"))
    return copy


def result(page: Path, script: str) -> object:
    """What an expression of the page's script is, as JSON says it."""
    text = dom(with_script(page, f"document.title = 'result:' + btoa(JSON.stringify({script}));"))
    return json.loads(base64.b64decode(text.split("result:")[1].split("<")[0]))
