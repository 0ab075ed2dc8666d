"""What the command does with results: print the first, and write all to a file, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mambascope import show
from mambascope.attribution import Attribution
from mambascope.growing_files import partial_name
from mambascope.theory.gallery import Gallery

FIGURES = (".png", ".pdf", ".svg")


def check_out(out: Path | None, formats: tuple[str, ...] = show.FORMATS) -> None:
    """Refuse a file that could not be written, before any work is done for it."""
    if out is not None:
        show.check_file(out, formats, "--out")


def command_line() -> str:
    """Return the running command, as it could be typed again."""
    return "mambascope " + shlex.join(sys.argv[1:])


def deliver(
    results: list[Attribution], as_json: bool, out: Path | None, *, gallery: Gallery | None = None, **facts: str
) -> None:
    """Print the first result and write them all, with the command and these facts among the evidence.

    Args:
        results: The results, the first of which is printed.
        as_json: Whether it is printed as JSON.
        out: The file to write.
        gallery: For the page of a text, what each head does.
        facts: More evidence, by name.
    """
    kept = {"command": command_line()} | facts
    results = [dataclasses.replace(one, diagnostics={**one.diagnostics, **kept}) for one in results]
    first = results[0]
    write_and_print(
        out,
        lambda path: first.save(path, *results[1:], gallery=gallery),
        lambda: _printed(first, as_json),
        as_json=as_json,
    )


def write_and_print(
    out: Path | None, write: Callable[[Path], object], show: Callable[[], object], *, as_json: bool
) -> None:
    """Write a file, if one is asked for, and print the result.

    The file comes first because whoever reads what is printed, such as `head`, may end the command by reading no more;
    and a file that cannot be written does not keep the result from being printed.
    """
    try:
        if out is not None:
            with Console(stderr=True).status(f"writing {escape(str(out))}"):
                write(out)
    finally:
        show()
    if out is not None and not as_json:
        print(f"written   {out}" + (", to open in a browser" if out.suffix.lower() == ".html" else ""))


@contextmanager
def continued_later(out: Path) -> Iterator[None]:
    """Say, if the writing of maps is interrupted, that the same command goes on with it."""
    try:
        yield
    except KeyboardInterrupt:
        if out.with_name(partial_name(out)).exists():
            print(f"mambascope: interrupted; the same command goes on with {out}", file=sys.stderr)
        raise


def show_written(out: Path, result: Attribution, as_json: bool) -> None:
    """Print a result that is in its file already."""
    _printed(result, as_json)
    if not as_json:
        print(f"written   {out}")


def _printed(result: Attribution, as_json: bool) -> None:
    """Print a result as people read it, or as JSON."""
    if as_json:
        print(json.dumps(result.to_dict()))
    else:
        result.show()
