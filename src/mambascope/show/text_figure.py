"""Figures of texts for papers: the map with its layers beside it, or for a single target its sources as bars.

Figures are made with `matplotlib.figure.Figure` itself: nothing enters pyplot's registry and no global setting changes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from mambascope.attribution import Attribution
from mambascope.characters import piece_names
from mambascope.show.check import SMALL_MULTIPLES, require_finite, require_layers
from mambascope.show.figure_axes import (
    LETTERS,
    NEGATIVE,
    POSITIVE,
    axis_labels,
    colourbar,
    heat,
    layer_bars,
    mark_negative,
    number_ticks,
    token_ticks,
)
from mambascope.show.figure_words import heading, how_to_read_bars, how_to_read_map, made_by
from mambascope.show.long_text_figure import long_text_figure
from mambascope.show.sheet import Sheet, broken
from mambascope.show.typeface import families
from mambascope.trust import caution

LABELLED_TOKENS = 64
BARS = 40


def text_figure(
    attribution: Attribution, layer: int | None = None, layers: Literal["auto", "mean", "each"] = "auto"
) -> Sheet:
    """Return a matplotlib figure of the result, with labelled axes and colours that stay ordered in grey.

    Several targets: the map (target × source) and, beside it, one small map per layer. One target: its sources as bars
    (or for long texts as `long_text_figure` draws them), and how much each layer carried. A heading says what is shown,
    a caption how to read it.

    Args:
        attribution: The result to draw.
        layer: Draw this layer alone, by its number in the model; by default the mean over layers.
        layers: Small maps beside the mean: `each` layer's, none (`mean`), or those of 2 to 48 layers (`auto`).

    Raises:
        InputError: if that layer is not in the result, `layers` is `each` for a result of 1 or more than 48 layers or
            together with `layer`, or a score is not a finite number.
    """
    require_finite(attribution)
    require_layers(attribution, layer, layers)
    count = len(attribution.axes["layer"])
    if len(attribution.axes["target"]) == 1:
        return (_bars if len(attribution.tokens) <= BARS else long_text_figure)(attribution, layer)
    return _map(attribution, layer, small=layer is None and layers != "mean" and count in SMALL_MULTIPLES)


def _map(attribution: Attribution, layer: int | None, small: bool) -> Sheet:
    layers = attribution.axes["layer"]
    matrix = attribution.matrix(layer).numpy()
    targets, sources = matrix.shape
    labelled = max(targets, sources) <= LABELLED_TOKENS
    side = min(max(4.6, 1.2 + 0.17 * sources), 9.0) if labelled else 6.0
    height = max(side * targets / sources, 1.0)
    columns = _columns(len(layers))
    widths = (side + 1.3, columns * side / -(-len(layers) // columns)) if small else (side + 1.3,)
    sheet = Sheet(figsize=(sum(widths), height + (0.8 if height == side else 1.6)), layout="constrained")
    sheet.head(heading(attribution))
    sheet.caption(how_to_read_map(attribution, small), caution(attribution.diagnostics))
    left, *rest = sheet.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    axes = left.subplots()
    image = heat(axes, matrix, attribution.signed)
    if attribution.signed and labelled:
        mark_negative(axes, matrix)
    axis_labels(axes, "source token", "target token")
    _token_ticks(axes, attribution, labelled)
    _title(axes, attribution, layer, side)
    colourbar(left, image, axes, attribution)
    for right in rest:
        _small_maps(right, attribution, columns)
    return sheet


def _small_maps(part: FigureBase, attribution: Attribution, columns: int) -> None:
    layers = attribution.axes["layer"]
    rows = -(-len(layers) // columns)
    grid = part.subplots(rows, columns, squeeze=False)
    for axes, number in zip(grid.flat, layers, strict=False):
        heat(axes, attribution.matrix(number).numpy(), attribution.signed)
        axes.set_title(f"{number}", fontsize=7, pad=2)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes in grid.flat[len(layers) :]:
        axes.set_axis_off()
    part.suptitle("each layer, on its own scale", fontsize=LETTERS)


def _bars(attribution: Attribution, layer: int | None) -> Sheet:
    """Return one bar per source, in the order of the text, and for several layers what each carried."""
    several = len(attribution.axes["layer"]) > 1
    width = 6.8
    sheet = Sheet(figsize=(width, max(3.0, 1.7 + 0.2 * len(attribution.tokens))), layout="constrained")
    sheet.head(heading(attribution))
    sheet.caption(how_to_read_bars(attribution, several), caution(attribution.diagnostics))
    ratios = {"width_ratios": (3, 1)} if several else None
    sources, *layers = sheet.subplots(1, 1 + several, squeeze=False, gridspec_kw=ratios)[0]
    _source_bars(sources, attribution, layer)
    _title(sources, attribution, layer, width - 1.2)
    for axes in layers:
        layer_bars(axes, attribution, chosen=layer)
    return sheet


def _source_bars(axes: Axes, attribution: Attribution, layer: int | None) -> None:
    row = attribution.row(attribution.axes["target"][0], layer).numpy()
    places = np.arange(len(row))
    drawn = axes.barh(places, row, color=np.where(row < 0, NEGATIVE, POSITIVE), edgecolor="#222222", linewidth=0.4)
    for bar, score in zip(drawn, row, strict=True):
        if score < 0:
            bar.set_hatch("////")
    axes.set_ylim(len(row) - 0.5, -0.5)
    token_ticks(axes.yaxis, piece_names(attribution.tokens))
    axes.axvline(0, color="#222222", linewidth=0.6)
    hatched = " (hatched: negative)" if (row < 0).any() else ""
    axis_labels(axes, f"{attribution.method} score{hatched}", "source token")
    axes.spines[["top", "right"]].set_visible(False)


def _token_ticks(axes: Axes, attribution: Attribution, labelled: bool) -> None:
    if not labelled:
        number_ticks(axes.xaxis, attribution.axes["source"])
        number_ticks(axes.yaxis, attribution.anchors)
        return
    names = piece_names(attribution.tokens)
    places = [attribution.axes["source"].index(position) for position in attribution.anchors]
    token_ticks(axes.xaxis, names, rotation=90)
    token_ticks(axes.yaxis, [names[place] for place in places])


def _title(axes: Axes, attribution: Attribution, layer: int | None, width: float) -> None:
    words = broken(made_by(attribution, layer), width)
    axes.set_title(words, fontsize=LETTERS, loc="left", parse_math=False, family=families())


def _columns(count: int) -> int:
    """Return how many columns of small maps look well beside one large square."""
    return next(columns for columns in (2, 3, 4, 5, 6, 7) if count <= columns * (columns + 1) or columns == 7)
