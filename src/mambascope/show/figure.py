"""Figures for papers, of texts and pictures, and writing them to files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.files import check_place, write_whole
from mambascope.numbering import shown
from mambascope.show.picture_figure import picture_figure
from mambascope.show.text_figure import text_figure

SUFFIXES = (".pdf", ".png", ".svg")


def figure(
    attribution: Attribution, layer: int | None = None, layers: Literal["auto", "mean", "each"] = "auto"
) -> Figure:
    """Return a matplotlib figure of the result: of a text as `text_figure` draws it, of a picture as `picture_figure`.

    Args:
        attribution: The result to draw.
        layer: Draw this layer alone, by its number in the model; by default all together.
        layers: Small maps beside them: `each` layer's, none (`mean`), or those of 2 to 48 layers (`auto`).

    Raises:
        InputError: if that layer is not in the result, `layers` does not suit it, or a score is not a finite number.
    """
    if attribution.grid is None:
        return text_figure(attribution, layer, layers)
    return picture_figure(attribution, layer=layer, layers=layers)


def save_figure(attribution: Attribution, path: str | Path) -> Path:
    """Write `figure(attribution)` to a .png, .pdf or .svg file (vector, with real letters) and return its path.

    No time stamp is written, so that making a figure again changes as little as possible.

    Raises:
        InputError: if the file has another ending, or its folder does not exist.
        OutputError: if the file cannot be written, as on a full disk.
    """
    return save_sheet(lambda: figure(attribution), path)


def save_picture_figure(
    attribution: Attribution, path: str | Path, position: int | None = None, layer: int | None = None
) -> Path:
    """Write `picture_figure(attribution, position, layer)` to a file as `save_figure` does, and return its path."""
    return save_sheet(lambda: picture_figure(attribution, position, layer), path)


def save_sheet(draw: Callable[[], Figure], path: str | Path) -> Path:
    """Write the figure that `draw` makes to a .png, .pdf or .svg file, as `save_figure` does, and return its path."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"figures are written as {', '.join(SUFFIXES)}, not as {shown(path.name)}; change the file's ending"
        )
    check_place(path)
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[suffix]
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "mambascope"}):
        content = io.BytesIO()
        draw().savefig(content, format=suffix.removeprefix("."), dpi=200, metadata=undated)
    write_whole(path, content.getvalue())
    return path
