"""How much the page of a text weighs, and how soon it is there, for texts of 30 to 10,000 tokens.

    python -m benchmarks.page_weight [--lengths 30 500 3000 10000] [--page docs/pages.md]

Each text is cut from a held-out novel and explained by tiny-mamba: its prediction alone, as `mambascope explain --out
page.html` does, and with every position where there are 512 tokens or fewer. The page is opened three times in headless
Chromium, and the median time from the start of loading to the first complete drawing is given; that needs playwright
(`pip install playwright`) and a Chromium.

A page holds a fixed part (script, style, evidence), and for every row of scores one byte for each source that the
target sees, and six bytes for each of its 8 top sources, deflated and in base64.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import mambascope
from benchmarks.agreement import passages
from mambascope.files import write_whole

OPENED = 3

PAGE = """# What a page weighs

Made by `python -m benchmarks.page_weight`; do not edit.

{about}

{table}
"""


def seconds_to_open(file: Path) -> float | None:
    """Return the median seconds until a page is drawn; None without playwright."""
    try:
        from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]
    except ImportError:
        return None
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        times = []
        for _ in range(OPENED):
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.goto(file.resolve().as_uri())
            page.wait_for_selector("body[data-ready=true]")
            times.append(page.evaluate("performance.now()") / 1000)
            page.close()
        browser.close()
    return statistics.median(times)


def rows_of(model: Any, tokenizer: Any, length: int) -> list[str]:
    """Return the lines of one length."""
    (ids,) = passages(tokenizer, 1, length, 0)
    inputs, lines = {"input_ids": torch.tensor([ids])}, []
    for what in ("the prediction", "every position")[: 1 + (length <= 512)]:
        every = {"method": "latim", "positions": "all"} if what == "every position" else {}
        first, *others = mambascope.explain(model, tokenizer, inputs, views=True, **every)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "page.html"
            file.write_text(first.to_html(*others), encoding="utf-8")
            size, seconds = file.stat().st_size, seconds_to_open(file)
        scores = sum(one.scores.numel() for one in (first, *others))
        opens = "–" if seconds is None else f"{seconds:.2f}"
        lines.append(f"| {length:,} | {what} | {1 + len(others)} | {scores:,} | {size / 1000:,.0f} | {opens} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[30, 500, 3000, 10_000])
    parser.add_argument("--page", type=Path, help="write the page of the documentation here")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    model, tokenizer = mambascope.load("tiny-mamba")
    heads = ("tokens", "explained", "results", "scores", "kB", "opens in s")
    table = [f"| {' | '.join(heads)} |", "| ---: | --- | ---: | ---: | ---: | ---: |"]
    for length in options.lengths:
        table += rows_of(model, tokenizer, length)
    about = "\n\n".join((__doc__ or "").strip().split("\n\n")[i] for i in (2, 3))
    page = PAGE.format(about=about, table="\n".join(table))
    print(page)
    if options.page:
        write_whole(options.page, page)


if __name__ == "__main__":
    main()
