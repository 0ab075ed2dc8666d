"""Reading options as people type them; error messages quote what was typed."""

from __future__ import annotations

import sys

from mambascope.errors import InputError
from mambascope.numbering import Layers, read_layers, read_positions, shown
from mambascope.results.units import UNITS


def layers_asked(layer: str) -> Layers:
    """Return the layers that `--layer` names: one, several, a range, or all."""
    return read_layers(layer, "--layer")


def positions_asked(positions: str | None) -> Layers | None:
    """Return the positions that `--positions` names: several, a range, or all."""
    return None if positions is None else read_positions(positions, "--positions")


def refuse_former(options: dict[str, tuple[str | None, str]]) -> None:
    """Raise InputError if an option is given by a former name; `options` maps these to its value and its new name."""
    for old, (value, new) in options.items():
        if value is not None:
            raise InputError(f"{old} is now called {new}; see mambascope explain --help")


def patch_asked(patch: str | None) -> tuple[int, int] | None:
    """Return the row and the column that `--patch` names."""
    if patch is None:
        return None
    row, comma, column = patch.partition(",")
    try:
        if not comma:
            raise ValueError
        return int(row), int(column)
    except ValueError:
        raise InputError(f"--patch {shown(patch)} is not a row and a column from 0, such as 3,7") from None


def spans_asked(words: bool, spans: list[str]) -> str | dict[str, tuple[int, int]] | None:
    """Return what `--words` and `--span` ask to take together; None if nothing.

    `--span sentences`, `lines` and `paragraphs` name kinds of unit; anything else is a name and a slice, `name=12:40`.
    """
    if words and spans:
        raise InputError("--words and --span both say which tokens are taken together; give one of them")
    if words or not spans:
        return "words" if words else None
    if len(spans) == 1 and spans[0] in UNITS:
        return spans[0]
    named: dict[str, tuple[int, int]] = {}
    for span in spans:
        name, equals, ends = span.rpartition("=")
        try:
            start, stop = (int(end) for end in ends.split(":"))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise InputError(
                f"--span {shown(span)} is not a name and its tokens, such as question=12:40, nor one of "
                f"{', '.join(UNITS)}"
            )
        if name in named:
            raise InputError(f"--span names {shown(name)} twice")
        named[name] = (start, stop)
    return named


def listed(given: str, option: str) -> list[str]:
    """Return the names that an option lists, separated by commas, each once."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise InputError(f"{option} is empty; give one name, or several separated by commas")
    return list(dict.fromkeys(names))


def text_asked(argument: str) -> str:
    """Return the text that was typed; of "-", what standard input holds.

    Raises:
        InputError: if standard input is not text in the terminal's encoding.
    """
    if argument != "-":
        return argument
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not text in {error.encoding}: {error.reason}") from None


def short(text: str, letters: int = 60) -> str:
    """Return what was typed, quoted, and cut to fit a message."""
    return repr(text if len(text) <= letters else text[: letters - 1] + "…")
