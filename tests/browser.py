"""A headless Chromium without a network: opens a page and gives its DOM and its console's messages."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", "--enable-logging=stderr", "--dump-dom",
)  # fmt: skip


def browser():
    if Path("/usr/bin/chromium").exists():
        return "/usr/bin/chromium"
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Dom(HTMLParser):
    """The opened page: attributes of every element, and its text by id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if dict(attrs).get("id") and tag in ("p", "caption", "span", "dl"):
            self.open.append((tag, dict(attrs)["id"]))

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            self.open.pop()

    def handle_data(self, data):
        for _, name in self.open[-1:]:
            self.texts[name] = self.texts.get(name, "") + data

    def by_id(self, name):
        return next(attrs for _, attrs in self.elements if attrs.get("id") == name)

    def rows(self):
        return [attrs for tag, attrs in self.elements if tag == "tr" and "data-score" in attrs]


def with_script(page: str, script: str) -> str:
    """Return a page that runs a test's script once it is ready; what that returns lands in `data-told`, as JSON."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    waits = "while (!document.body.dataset.ready) await new Promise((go) => setTimeout(go, 20));"
    runs = f"(async () => {{ {waits} const told = await (async () => {{ {script} }})();"
    return free + f"<script>{runs} document.body.dataset.told = JSON.stringify(told); }})();</script>"


def open_file(file: Path, address: str = ""):
    """Return the DOM of a page on disk and the browser's messages about it; skip where there is no browser.

    Args:
        file: The page.
        address: What follows the file in the page's address, such as `#layer=2`.
    """
    program = browser()
    if program is None:
        pytest.skip("no Chromium: neither /usr/bin/chromium nor one on the PATH")
    command = [program, *FLAGS, f"--user-data-dir={file.parent / 'profile'}", file.as_uri() + address]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    return Dom(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
