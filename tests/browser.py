"""A Chromium driven as a reader drives it, by keys and pointer, through Debian's chromedriver."""

import functools
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

needs_browser = pytest.mark.skipif(
    not (shutil.which("chromedriver") and shutil.which("chromium")),
    reason="Debian's chromium and chromium-driver are not installed",
)
KEYS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015", "tab": "\ue004", "space": " "}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Browser:
    """One window. Only this machine is reachable: every other name fails to resolve, and console errors are kept."""

    def __init__(self, folder: Path):
        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}", "--silent"])
        self.session = f"http://127.0.0.1:{port}/session"
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        switches += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        wanted = {
            "goog:chromeOptions": {"args": switches},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        for attempt in range(100):
            try:
                found = self.ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
                break
            except urllib.error.URLError:
                assert attempt < 99, "chromedriver does not answer"
                time.sleep(0.2)
        self.session += f"/{found['sessionId']}"
        self.ask("POST", "/timeouts", {"script": 180_000, "pageLoad": 120_000})

    def ask(self, method: str, path: str, body: object = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.session + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, page: str, width: int = 1100):
        size = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setDeviceMetricsOverride", size)
        self.ask("POST", "/url", {"url": self.address + page})

    def cdp(self, name: str, parameters: dict):
        return self.ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def run(self, script: str, *arguments):
        """The value of a function's body; what it awaits is waited for."""
        body = "const done = arguments[arguments.length - 1], given = arguments;"
        body += f"(async () => {{ {script} }})().then(done, problem => done(`${{problem}}`))"
        return self.ask("POST", "/execute/async", {"script": body, "args": list(arguments)})

    def press(self, *keys: str):
        """Keys, one after the other, for whatever has the focus."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def drag(self, start: tuple[float, float], end: tuple[float, float], kind: str = "mouse"):
        """A pointer goes down at the first point of the window and up at the second."""
        move = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 50} for x, y in (start, end)]
        actions = [move[0], {"type": "pointerDown", "button": 0}, move[1], {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": actions}
        self.ask("POST", "/actions", {"actions": [pointer]})

    def picture(self) -> str:
        """The whole page as a PNG, in base64."""
        return self.cdp("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]

    def errors(self) -> list[str]:
        """What the console has complained of since the last call."""
        found = self.ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in found if entry["level"] in ("SEVERE", "WARNING")]

    def requested(self) -> list[str]:
        """The addresses elsewhere that pages have asked for since the last call, got or not."""
        found = [
            json.loads(entry["message"])["message"] for entry in self.ask("POST", "/se/log", {"type": "performance"})
        ]
        asked = [each["params"]["request"]["url"] for each in found if each["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith((self.address, "data:", "blob:"))]

    def close(self):
        self.ask("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
        self.server.shutdown()
        self.server.server_close()
