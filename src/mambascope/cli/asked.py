"""Options as people type them, read; refusals say what was typed."""

from __future__ import annotations

from mambascope.errors import InputError
from mambascope.numbering import Layers, read_layers


def layers_asked(layer: str) -> Layers:
    """Return the layers that `--layer` names: one, several, a range, or all."""
    return read_layers(layer, "--layer")


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
        raise InputError(f"--patch {patch!r} is not a row and a column from 0, such as 3,7") from None


def short(text: str, letters: int = 60) -> str:
    """Return what was typed, quoted, cut to a length that suits a message."""
    return repr(text if len(text) <= letters else text[: letters - 1] + "…")
