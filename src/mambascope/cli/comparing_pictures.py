"""`mambascope compare PICTURE`: several models on one picture, a row each, with a method in each column."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from mambascope.attribution import Attribution
from mambascope.cli.asked import listed, patch_asked, short
from mambascope.cli.delivering import FIGURES, check_out, command_line, write_and_print
from mambascope.cli.loading import check_size, size_for
from mambascope.errors import InputError
from mambascope.explanation.answering import answer
from mambascope.explanation.options import ask, check_targets, has_features
from mambascope.explanation.stages import explains_stage
from mambascope.explanation.subject import Subject, read_subject
from mambascope.families import kinds_of
from mambascope.files import write_whole
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS, find_method
from mambascope.models.picture_models import StagedModel
from mambascope.show.comparison import Compared, require_comparable
from mambascope.show.comparison_figure import save_comparison
from mambascope.show.comparison_page import comparison_page
from mambascope.show.picture_words import INDEPENDENT, source_name
from mambascope.show.screen import Screen, number, percent
from mambascope.show.tokens import visible
from mambascope.trust import caution

FORMATS = (".html", *FIGURES, ".json")
SET_IN: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    "}

#: The columns of the figure in the Hidden Attention paper, and relevance.
COLUMNS = ("raw attention", "rollout", "attribution", "relevance")


def compare(
    file: str,
    load: Callable[[str, int | None], tuple[Any, Any]],
    *,
    models: str,
    image_size: int | None,
    methods: str | None,
    target: str | None,
    foil: str | None,
    patch: str | None,
    keep_size: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Explain one picture by every method on every model, print the numbers, and write the grid."""
    columns = {name: _standing_in(name) for name in COLUMNS}
    if methods is not None:
        columns = {name: (find_method(name).name,) for name in listed(methods, "--methods")}
        check_targets([METHODS[names[0]] for names in columns.values()], target, foil)
    check_out(out, FORMATS)
    if not os.path.isfile(file):
        raise InputError(f"there is no picture {short(file)}")
    question = {"target": target, "foil": foil, "patch": patch_asked(patch)}
    names = listed(models, "--models")
    check_size(image_size, names)
    rows = []
    for name in names:
        model, _ = load(name, size_for(name, image_size))
        with Console(stderr=True).status(f"explaining with {escape(name)}"):
            subject = read_subject(model, None, Path(file), keep_size=keep_size)
            rows.append(_row(subject, columns, question))
    require_comparable(rows, list(columns))
    write_and_print(
        out,
        lambda path: _write(rows, list(columns), path),
        lambda: _print_json(file, rows, list(columns)) if as_json else _print(rows, list(columns)),
        as_json=as_json,
    )


def _standing_in(column: str) -> tuple[str, ...]:
    """Return a column's methods, the most specialised first, then in the order in which they are used by default.

    The first that can read the model and does not defer is used.
    """
    found = [method for method in METHODS.values() if method.column == column]

    def rank(method: Method) -> tuple[bool, int]:
        return method.kinds is None and not method.never_alone, len(
            METHODS
        ) if method.answers is None else method.answers

    return tuple(method.name for method in sorted(found, key=rank))


def _row(subject: Subject, columns: dict[str, tuple[str, ...]], question: dict[str, Any]) -> Compared:
    """Return one model's results, column by column; methods that score a position are not asked about a class."""
    model, kinds = subject.model, kinds_of(subject.model)
    named = question["target"] is not None or question["foil"] is not None
    one_patch = question["patch"] is not None and (named or not has_features(model))
    chosen: list[Method | None] = []
    reasons = []
    for names in columns.values():
        able = [METHODS[name] for name in names if METHODS[name].reads(kinds)]
        able = [one for one in able if not kinds <= one.defers] or able
        reason = "" if able else f"{names[0]} does not read {' and '.join(sorted(kinds))} layers"
        if isinstance(model, StagedModel) and able and not explains_stage(model, able[0], len(model.cells()) - 1):
            able, reason = [], f"{able[0].name} cannot explain the last stage by itself"
        if one_patch and able and not able[0].by_place:
            able, reason = [], f"{able[0].name} explains a class, not a single patch"
        chosen.append(able[0] if able else None)
        reasons.append(reason)
    methods = [one for one in chosen if one is not None]
    results: dict[str, Attribution] = {}
    for asks in (True, False):
        group = [one for one in methods if one.asks is asks]
        if group:
            asked = ask(subject, group, **(question if asks else {"patch": question["patch"]}))
            results |= {one.method: one for one in answer(subject, group, asked)}
    return Compared(tuple(None if one is None else results[one.name] for one in chosen), tuple(reasons))


def _plain(row: Compared) -> dict[str, Any]:
    first = row.first
    return {
        "model": first.model.name,
        "classes": [list(one) for one in first.target.next_tokens],
        "results": [None if one is None else one.to_dict() for one in row.results],
        "reasons": list(row.reasons),
    }


def _print_json(file: str, rows: Sequence[Compared], columns: Sequence[str]) -> None:
    print(json.dumps({"picture": file, "columns": columns, "models": [_plain(row) for row in rows]}))


def _print(rows: Sequence[Compared], columns: Sequence[str]) -> None:
    """Print what each model predicts and, method by method, its top source."""
    console = Console()
    screen = Screen.of(console)
    for row in rows:
        first = row.first
        seen = ", ".join(f"{visible(name)} {percent(share)}" for name, share in first.target.next_tokens[:3])
        error = first.diagnostics["reconstruction_error"]
        head = f"{visible(first.model.name)} · {first.model.family} · rebuilt to within {error:.1e}"
        each = f", {INDEPENDENT}:" if first.target.independent else ""
        lines = [f"  predicts{each} {seen}"] if seen else []
        if "preparation" in first.diagnostics:
            lines.append(_line("picture", visible(str(first.diagnostics["preparation"])), screen.width))
        for result, reason, column in zip(row.results, row.reasons, columns, strict=True):
            if result is None:
                lines.append(_line(column, reason, screen.width))
                continue
            (top,) = result.top(1)
            where = f"{source_name(top.token)} {number(top.score)} ({percent(top.share)})"
            lines.append(_line(result.method, f"most from {where}", screen.width))
            if words := caution(result.diagnostics):
                lines.append(textwrap.fill(f"caution: {words}", screen.width, **SET_IN))
        console.print(screen.fit(head), style="bold", markup=False, highlight=False, width=screen.width)
        for line in lines:
            console.print(screen.fit(line), markup=False, highlight=False, width=screen.width)


def _line(name: str, words: str, width: int) -> str:
    """Return one column's line; on a narrow screen its words go below its name."""
    line = f"  {name:<24}{words}"
    return line if cell_len(line) <= width else f"  {name}\n{textwrap.fill(words, width, **SET_IN)}"


def _write(rows: Sequence[Compared], columns: Sequence[str], out: Path) -> None:
    suffix = out.suffix.lower()
    if suffix in FIGURES:
        save_comparison(rows, columns, out)
        return
    content = comparison_page(rows, columns, command_line()) if suffix == ".html" else json.dumps([*map(_plain, rows)])
    write_whole(out, content)
