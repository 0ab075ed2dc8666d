"""`mambascope compare TEXT`: models and methods on one text, or on two that differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from mambascope.cli.asked import listed, text_asked
from mambascope.cli.delivering import FIGURES, check_out, command_line, write_and_print
from mambascope.errors import InputError
from mambascope.explanation.comparing_texts import compare_texts
from mambascope.explanation.options import check_targets
from mambascope.files import write_whole
from mambascope.methods.registry import find_method
from mambascope.results.text_comparison import TextComparison
from mambascope.show.text_comparison import print_text_comparison
from mambascope.show.text_comparison_figure import save_text_comparison
from mambascope.show.text_comparison_page import text_comparison_page
from mambascope.trace.putting import Part

FORMATS = (".html", *FIGURES, ".json")


def compare(
    text: str,
    load: Callable[[str], tuple[Any, Any]],
    *,
    other: str | None,
    models: str,
    methods: str | None,
    target: str | None,
    foil: str | None,
    position: int | None,
    patch_in: Part | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Explain a text, or two, by every method on every model, print what differs, and write it."""
    names = None if methods is None else listed(methods, "--methods")
    check_targets([find_method(name) for name in names or ()], target, foil)
    check_out(out, FORMATS)
    texts = [text_asked(text), *([] if other is None else [other])]
    if not all(texts):
        raise InputError("the text is empty; pass at least one word")
    asked: dict[str, Any] = {
        "methods": names,
        "target": target,
        "foil": foil,
        "position": position,
        "patch_in": patch_in,
    }
    comparison = compare_texts(_loaded(listed(models, "--models"), load), *texts, **asked)
    facts = {"texts": texts} | comparison.to_dict()
    write_and_print(
        out,
        lambda path: _write(comparison, facts, path),
        lambda: print(json.dumps(facts)) if as_json else print_text_comparison(comparison),
        as_json=as_json,
    )


def _loaded(names: Sequence[str], load: Callable[[str], tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for name in names:
        loaded = load(name)
        with Console(stderr=True).status(f"explaining with {escape(name)}"):
            yield loaded


def _write(comparison: TextComparison, facts: dict[str, Any], out: Path) -> None:
    suffix = out.suffix.lower()
    if suffix in FIGURES:
        save_text_comparison(comparison, out)
    elif suffix == ".html":
        write_whole(out, text_comparison_page(comparison, command_line()))
    else:
        write_whole(out, json.dumps(facts) + "\n")
