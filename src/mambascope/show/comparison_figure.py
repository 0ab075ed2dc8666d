"""The grid of pictures by which methods and models are compared (as in Ali, Zimerman & Wolf, arXiv 2403.01590, fig. 3).

A row is a model; its columns are the picture and one method's scores each, laid over it on a scale of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import SubFigure

from mambascope.attribution import Attribution
from mambascope.show.comparison import Compared, require_comparable, same_name
from mambascope.show.figure import save_sheet
from mambascope.show.overlay import ground_of
from mambascope.show.palette import colormap
from mambascope.show.picture_figure import draw_overlay, outline_target
from mambascope.show.picture_words import sees, shares
from mambascope.show.scale import score_norm
from mambascope.show.screen import percent
from mambascope.show.sheet import LINE, RED, Sheet
from mambascope.show.typeface import drawable, families
from mambascope.trust import caution, in_short

CELL = 1.75  # inches
LETTERS = 8  # points
LONGEST_NAME = 24
#: Share of the sum of absolute scores below which patches hold next to nothing.
LITTLE = 0.1
SIGNED, UNSIGNED = ("takes away", "0", "adds"), ("the cell's smallest", "its largest score")


def comparison_figure(rows: Sequence[Compared], columns: Sequence[str]) -> Sheet:
    """Return a matplotlib figure of the comparison, with the share that patches hold below each cell.

    Args:
        rows: One per model.
        columns: The columns' names.

    Raises:
        InputError: as `require_comparable` does.
    """
    require_comparable(rows, columns)
    doubts: dict[str, str] = {}  # the first of each method; the others differ in their numbers
    for result in (result for row in rows for result in row.results if result is not None):
        if words := caution(result.diagnostics):
            doubts.setdefault(result.method, words)
    tall = sum(CELL * _shape(row) + 0.66 for row in rows) + 1.3 + LINE * len(rows) * bool(doubts)
    sheet = Sheet(figsize=(CELL * (len(columns) + 1) + 0.3, tall), layout="constrained")
    sheet.caption(_how_to_read(rows), "; ".join(f"{method}: {words}" for method, words in doubts.items()))
    parts: Any = sheet.subfigures(2, 1, height_ratios=(tall - 0.5, 0.5))
    upper, lower = parts
    cells = upper.subplots(len(rows), len(columns) + 1, squeeze=False)
    for axes, name in zip(cells[0], ("picture", *columns), strict=True):
        _head(axes, name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")
    for axes, row in zip(cells, rows, strict=True):
        _row(list(axes), row, columns)
    _scales(
        lower, any(result is not None and bool((result.picture() < 0).any()) for row in rows for result in row.results)
    )
    return sheet


def save_comparison(rows: Sequence[Compared], columns: Sequence[str], path: str | Path) -> Path:
    """Write `comparison_figure` to a file as `save_figure` does, and return its path."""
    return save_sheet(lambda: comparison_figure(rows, columns), path)


def cell_says(result: Attribution, column: str) -> str:
    """Return what a cell must say beyond its column's name: the method, if it is another, and the class explained."""
    asked = result.target.asked.replace("logit of class ", "").replace("minus that of", "against")
    return ": ".join(part for part in ("" if same_name(result.method, column) else result.method, asked) if part)


def _head(axes: Axes, name: str) -> None:
    """Write a column's name above its first cell and that cell's own title."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center"}
    looks: dict[str, Any] = {"fontsize": LETTERS + 1, "fontweight": "bold", "family": families()}
    axes.annotate(drawable(name), (0.5, 1), (0, 26), parse_math=False, annotation_clip=False, **place, **looks)


def _row(cells: Sequence[Axes], row: Compared, columns: Sequence[str]) -> None:
    first = row.first
    assert first.grid is not None
    image = ground_of(first.image, first.grid)
    cells[0].imshow(image.numpy())
    says = _short(first.model.name, 26) + (f"\npredicts {sees(first)}" if first.target.next_tokens else "")
    _title(cells[0], says)
    for axes, result, reason, column in zip(cells[1:], row.results, row.reasons, columns, strict=True):
        if result is None:
            axes.set_facecolor("#f0f1f3")
            axes.set_box_aspect(image.shape[0] / image.shape[1])
            axes.text(
                0.5, 0.5, _broken(reason), ha="center", va="center", fontsize=6, color="#5b6470", parse_math=False,
                transform=axes.transAxes,
            )  # fmt: skip
        else:
            draw_overlay(axes, result, stretched=True)
            outline_target(axes, result, None, (image.shape[0], image.shape[1]))
            _title(axes, cell_says(result, column))
            _shares(axes, result)
    for axes in cells:
        axes.set(xticks=[], yticks=[])


def _shares(axes: Axes, result: Attribution) -> None:
    """Write below a cell what class token and patches hold; in red where that is little, or not to be relied on."""
    row = result.row().abs()
    little = float(result.picture().abs().sum()) < LITTLE * float(row.sum())
    looks: dict[str, Any] = {"color": RED, "fontweight": "bold"} if little else {"color": "#444444"}
    words = in_short(caution(result.diagnostics))
    if words:
        looks = {"color": RED, "fontweight": "bold"}
    says = "\n".join(filter(None, [words, *shares(result)]))
    axes.set_xlabel(says, fontsize=6, loc="left", labelpad=3, **looks)


def _how_to_read(rows: Sequence[Compared]) -> str:
    """Return how to read the cells, and what their colours do not say."""
    says = (
        "Each row is a model, each column a method. Each cell has its own scale: its deepest colour is its largest "
        "patch, however little that holds. Compare places within a cell, not depths between cells. Below each cell: "
        "shares of the sum of absolute scores"
    )
    counts = sorted({len(row.first.tokens) for row in rows})
    even = " or ".join(f"{percent(1 / count)} ({count} tokens)" for count in counts)
    says += f"; if all tokens scored alike, each would hold {even}."
    if any(row.first.target.independent and row.first.target.next_tokens for row in rows):
        says += " Each class is judged by itself: several may be likely at once."
    return says


def _scales(part: SubFigure, signed: bool) -> None:
    """Draw what the colours mean, once for all cells."""
    for left, kind in ((0.1, False), (0.56, True)):
        if kind and not signed:
            continue
        axes = part.add_axes((left, 0.5, 0.34, 0.2))
        bar = part.colorbar(ScalarMappable(score_norm(1.0, kind), colormap(kind)), cax=axes, orientation="horizontal")
        bounds, names = ([-1, 0, 1], SIGNED) if kind else ([0, 1], UNSIGNED)
        bar.set_ticks(bounds, labels=names, fontsize=LETTERS - 1)
        labels = bar.ax.get_xticklabels()
        labels[0].set(ha="left")
        labels[-1].set(ha="right")


def _shape(row: Compared) -> float:
    """Return the height of a row's picture over its width."""
    first = row.first
    assert first.grid is not None
    height, width = first.grid.size if first.image is None else first.image.shape[:2]
    return height / width


def _title(axes: Axes, says: str) -> None:
    if not says:
        return
    lines = [line for part in says.split("\n") for line in _broken(part, 27).split("\n")]
    kept = lines if len(lines) < 3 else [lines[0], lines[1][:25] + "…"]
    text = drawable("\n".join(kept)) if len(kept) == 1 else "\n".join(map(drawable, kept))
    axes.set_title(text, fontsize=6.5, loc="left", pad=3, parse_math=False, family=families())


def _broken(words: str, width: int = 30) -> str:
    """Return words on lines of at most about this many letters."""
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _short(name: str, letters: int) -> str:
    return name if len(name) <= letters else "…" + name[-letters + 1 :]
