"""Models and methods on one text, or two texts, as a figure: a line of the map for each, and below it what differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from mambascope.attribution import Attribution
from mambascope.results.text_comparison import TextComparison
from mambascope.show.figure import save_sheet
from mambascope.show.figure_axes import LETTERS, mark_negative, number_ticks, token_ticks
from mambascope.show.palette import colormap
from mambascope.show.patching import pair_names, patching_words
from mambascope.show.scale import score_norm
from mambascope.show.sheet import Sheet
from mambascope.show.text_comparison import SHARES, explained, notes, require_comparison
from mambascope.show.typeface import drawable, families
from mambascope.trust import caution

LABELLED_COLUMNS = 64
LINE = 0.27  # inches
#: The colour of a column that a text does not have.
ABSENT = "#e3e6ea"


def text_comparison_figure(comparison: TextComparison) -> Sheet:
    """Return a matplotlib figure with a line of shares for each row and text, and below them lines of differences.

    Args:
        comparison: What is compared.

    Raises:
        InputError: if there is nothing to compare, or a score is not a finite number.
    """
    require_comparison(comparison)
    columns, lines = len(comparison.names[0]), comparison.differences()
    shares = np.concatenate([row.shares.numpy() for row in comparison.rows])
    labelled = columns <= LABELLED_COLUMNS
    width = max(6.8, 2.6 + (0.17 if labelled else 0.02) * columns)
    layers = sum(len(one.axes["layer"]) + 6 for one in comparison.patched)
    tall = LINE * (len(shares) + len(lines) + layers) + (2.6 if labelled else 2.0) + 0.15 * len(comparison.rows)
    sheet = Sheet(figsize=(min(width, 14.0), tall), layout="constrained")
    sheet.head("What models and methods drew from" if comparison.texts == 1 else "What changed between two texts")
    doubts = [one for row in comparison.rows for result in row.results if (one := caution(result.diagnostics))]
    sheet.caption(_how_to_read(comparison), doubts[0] if doubts else "")
    heights = [len(shares), *([len(lines)] if lines else []), *(len(one.axes["layer"]) for one in comparison.patched)]
    parts = sheet.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    signed = bool((np.nan_to_num(shares) < 0).any())
    image = _lines(parts[0], shares, _row_names(comparison), signed)
    bar = sheet.colorbar(image, ax=parts[0], fraction=0.046, pad=0.01)
    bar.set_label("share", fontsize=LETTERS)
    bar.ax.tick_params(labelsize=LETTERS - 1)
    _columns(parts[0], comparison.names[0], labelled, above=True)
    if lines:
        values = np.stack([line.numpy() for _, line in lines])
        _lines(parts[1], values, [_line_name(comparison, name) for name, _ in lines], bool((values < 0).any()))
        _columns(parts[1], comparison.names[-1], labelled and comparison.texts == 2, above=False)
    for axes, result in zip(parts[len(heights) - len(comparison.patched) :], comparison.patched, strict=True):
        _patched(sheet, axes, result)
    return sheet


def save_text_comparison(comparison: TextComparison, path: str | Path) -> Path:
    """Write `text_comparison_figure` to a file as `save_figure` does, and return its path."""
    return save_sheet(lambda: text_comparison_figure(comparison), path)


def _patched(sheet: Sheet, axes: Axes, result: Attribution) -> None:
    """Draw what parts of the first text's run bring back, a line for each layer."""
    values = result.scores[:, 0].numpy()
    image = _lines(axes, values, [f"layer {layer}" for layer in result.axes["layer"]], bool((values < 0).any()))
    axes.set_title(drawable(f"patching · {result.model.name}"), fontsize=LETTERS, loc="left", parse_math=False)
    _columns(axes, pair_names(result, str), values.shape[1] <= LABELLED_COLUMNS, above=False)
    bar = sheet.colorbar(image, ax=axes, fraction=0.046, pad=0.01)
    bar.set_label("brought back", fontsize=LETTERS)
    bar.ax.tick_params(labelsize=LETTERS - 1)


def _lines(axes: Axes, values: Float[np.ndarray, "line column"], names: Sequence[str], signed: bool) -> AxesImage:
    """Draw lines of shares on one scale."""
    largest = float(np.abs(np.nan_to_num(values)).max()) or 1.0
    axes.set_facecolor(ABSENT)
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colormap(signed), norm=score_norm(largest, signed), aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    if values.shape[1] <= LABELLED_COLUMNS:
        mark_negative(axes, np.nan_to_num(values))
    axes.set_yticks(range(len(names)), list(map(drawable, names)), fontsize=LETTERS - 1)
    for label in axes.get_yticklabels():
        label.set(parse_math=False, family=families())
    return image


def _columns(axes: Axes, names: Sequence[str], labelled: bool, *, above: bool) -> None:
    """Name the columns; where there are too many, or the names stand above already, their numbers are enough."""
    if above:
        axes.xaxis.tick_top()
    if labelled:
        token_ticks(axes.xaxis, [name or " " for name in names], rotation=90)
    elif above or len(names) > LABELLED_COLUMNS:
        number_ticks(axes.xaxis, tuple(range(len(names))))
    else:
        axes.set_xticks([])


def _row_names(comparison: TextComparison) -> list[str]:
    if comparison.texts == 1:
        return [f"{number}  {_short(row.name)}" for number, row in enumerate(comparison.rows, start=1)]
    return [
        f"{number}  {_short(row.name)}" if text == 0 else "second text"
        for number, row in enumerate(comparison.rows, start=1)
        for text in (0, 1)
    ]


def _line_name(comparison: TextComparison, name: str) -> str:
    return name if comparison.texts == 1 else _short(name)


def _short(name: str) -> str:
    return name if len(name) <= 44 else f"{name[:43]}…"


def _how_to_read(comparison: TextComparison) -> str:
    of_what = f"{SHARES} in the first text" if comparison.texts == 2 else SHARES
    says = [f"Colours: {of_what}; all rows have one scale, the differences below them one of their own."]
    says += [f"{number}: {explained(row)}." for number, row in enumerate(comparison.rows, start=1)]
    says += [f"Patching {one.model.name}: {patching_words(one)}." for one in comparison.patched]
    return "\n".join([*says, *notes(comparison)])
