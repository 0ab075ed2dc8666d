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

ATTEMPTS = 4


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


def open_file(file: Path, address: str = "", flags=()):
    """Return the DOM of a page on disk and the browser's messages about it; skip where there is no browser.

    The browser counts a time of its own, which on a busy machine runs out before a stream is unpacked: a page that has
    not come to its end is opened again.

    Args:
        file: The page.
        address: What follows the file in the page's address, such as `#layer=2`.
        flags: More options of the browser, such as a window's size.
    """
    program = browser()
    if program is None:
        pytest.skip("no Chromium: neither /usr/bin/chromium nor one on the PATH")
    command = [program, *FLAGS, *flags, f"--user-data-dir={file.parent / 'profile'}", file.as_uri() + address]
    for attempt in range(ATTEMPTS):
        try:
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True)
        except subprocess.TimeoutExpired:  # now and then it hangs while it starts
            if attempt + 1 == ATTEMPTS:
                raise
            continue
        dom = Dom(done.stdout)
        if _ended(file.read_text("utf-8"), dom):
            break
    return dom, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def _ended(page: str, dom: Dom) -> bool:
    """Return whether a page's scripts, if it has any, have come to their end, or say what stopped them."""
    told = {attrs.get("id"): attrs for _, attrs in dom.elements}
    body = next((attrs for tag, attrs in dom.elements if tag == "body"), {})
    if "dataset.told" in page:
        return "data-told" in body
    stopped = "hidden" not in told.get("problem", {"hidden": ""})
    return 'id="result"' not in page or "data-ready" in body or stopped
