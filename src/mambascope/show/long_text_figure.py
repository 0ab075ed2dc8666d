"""One target of a long text: every source as a line in its place, the strongest named, and each layer's part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mambascope.attribution import Attribution, Source
from mambascope.show.figure_axes import (
    LETTERS,
    NEGATIVE,
    POSITIVE,
    axis_labels,
    colourbar,
    heat,
    layer_bars,
    number_ticks,
    short_name,
)
from mambascope.show.figure_words import heading, how_to_read_line, made_by
from mambascope.show.screen import percent
from mambascope.show.sheet import Sheet, broken
from mambascope.show.typeface import families
from mambascope.trust import caution

NAMED = 12
POINTS = 3.8  # of height for each letter of a name
WIDTH = 8.6  # inches
#: Share of the text's width that one name takes.
NAME = 0.03
LINES, LAYERS = 3.8, (1.0, 3.2)  # inches of height


def long_text_figure(attribution: Attribution, layer: int | None = None) -> Sheet:
    """Return a figure of the result's first target: its sources at their places in the text, the largest named.

    Args:
        attribution: The result.
        layer: Draw this layer's scores as lines; by default those of all layers together.
    """
    layers = attribution.axes["layer"]
    several = len(layers) > 1
    tall = min(max(0.17 * len(layers), LAYERS[0]), LAYERS[1]) if several else 0.0
    sheet = Sheet(figsize=(WIDTH, LINES + 0.6 + (tall + 0.6 if several else 0)), layout="constrained")
    top = [source for source in attribution.top(NAMED, attribution.axes["target"][0], layer) if source.score]
    sheet.head(heading(attribution))
    sheet.caption(how_to_read_line(attribution, len(top), several), caution(attribution.diagnostics))
    if not several:
        _lines(sheet.subplots(), attribution, top, layer)
        return sheet
    grid = sheet.add_gridspec(2, 2, width_ratios=(6, 1), height_ratios=(LINES, tall))
    lines = sheet.add_subplot(grid[0, 0])
    _lines(lines, attribution, top, layer)
    strip = sheet.add_subplot(grid[1, 0], sharex=lines)
    image = heat(strip, attribution.scores[:, 0].numpy(), attribution.signed)
    strip.set_aspect("auto")
    axis_labels(strip, "source position", "layer")
    number_ticks(strip.yaxis, layers)
    colourbar(sheet, image, strip, attribution)
    layer_bars(sheet.add_subplot(grid[1, 1]), attribution, chosen=layer)
    return sheet


def _lines(axes: Axes, attribution: Attribution, top: Sequence[Source], layer: int | None) -> None:
    row = attribution.row(attribution.axes["target"][0], layer).numpy()
    places = np.arange(len(row))
    axes.vlines(places, 0, row, colors=np.where(row < 0, NEGATIVE, POSITIVE).tolist(), linewidth=1.0)
    axes.axhline(0, color="#222222", linewidth=0.6)
    axes.set_yscale("function", functions=(_root, _square))
    axes.set_xlim(-0.01 * len(row) - 0.5, 1.01 * len(row) - 0.5)
    number_ticks(axes.xaxis, attribution.axes["source"])
    axis_labels(axes, "source position", f"{attribution.method} score")
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if not (row < 0).any():
        axes.set_ylim(bottom=0)
    names = _name(axes, top, len(row))
    words = broken(made_by(attribution, layer), WIDTH - 1.0)
    room = 12 + POINTS * max(map(len, names), default=0)
    axes.set_title(words, fontsize=LETTERS, loc="left", pad=room, parse_math=False, family=families())


def _name(axes: Axes, top: Sequence[Source], length: int) -> list[str]:
    """Write the names of the strongest sources above the lines, with a thin line to each, and return them."""
    in_order = sorted(top)
    names = [f"‘{short_name(source.token)}’ {source.position}: {percent(source.share)}" for source in in_order]
    places = spread([float(source.position) for source in in_order], NAME * length, length - 1.0)
    for source, name, place in zip(in_order, names, places, strict=True):
        axes.annotate(
            name,
            (source.position, max(source.score, 0.0)),
            (place, 1.03),
            textcoords=axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=LETTERS - 1,
            color="#111111" if source.score > 0 else "#702603",
            parse_math=False,
            family=families(),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.5,
                "color": "#8a929c",
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0.5, 0),
            },
        )
    return names


def spread(places: Sequence[float], apart: float, last: float) -> list[float]:
    """Return places, in order, as near to these as possible but at least `apart`, none beyond the last.

    Args:
        places: The places wanted, in order.
        apart: The least distance between two.
        last: The largest place allowed.
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + apart) if moved else place)
    limit = last
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - apart
    return moved


def _root(scores: np.ndarray) -> np.ndarray:
    return np.sign(scores) * np.sqrt(np.abs(scores))


def _square(roots: np.ndarray) -> np.ndarray:
    return np.sign(roots) * np.square(roots)
