"""What the command does with results: print the first, and write all to a file, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mambascope import show
from mambascope.attribution import Attribution

FIGURES = (".png", ".pdf", ".svg")


def check_out(out: Path | None, formats: tuple[str, ...] = show.FORMATS) -> None:
    """Refuse a file that could not be written, before any work is done for it."""
    if out is not None:
        show.check_file(out, formats, "--out")


def command_line() -> str:
    """Return the running command, as it could be typed again."""
    return "mambascope " + shlex.join(sys.argv[1:])


def deliver(results: list[Attribution], as_json: bool, out: Path | None, **facts: str) -> None:
    """Print the first result and write them all, with the command and these facts among the evidence."""
    kept = {"command": command_line()} | facts
    results = [dataclasses.replace(one, diagnostics={**one.diagnostics, **kept}) for one in results]
    if as_json:
        print(json.dumps(results[0].to_dict(), ensure_ascii=False))
    else:
        results[0].show()
    if out is not None:  # after the result is shown: a full disk must not lose it
        with Console(stderr=True).status(f"writing {escape(str(out))}"):
            results[0].save(out, *results[1:])
        if not as_json:
            print(f"written   {out}" + (", to open in a browser" if out.suffix.lower() == ".html" else ""))
