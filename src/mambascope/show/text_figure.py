"""Figures of texts for papers: the map with its layers beside it, or for a single target its sources as bars.

Figures are made with `matplotlib.figure.Figure` itself: nothing enters pyplot's registry and no global setting changes.
"""

from __future__ import annotations

from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage

from mambascope.methods.attribution import WHOLE_MODEL, Attribution
from mambascope.show.check import SMALL_MULTIPLES, require_finite, require_layers
from mambascope.show.palette import ANCHORS, colormap
from mambascope.show.scale import score_norm
from mambascope.show.typeface import drawable, families

LABELLED_TOKENS = 64
LONGEST_NAME = 20
BARS = 40
LETTERS = 8  # points
POSITIVE, NEGATIVE = ANCHORS["light"]["positive"][3], ANCHORS["light"]["negative"][3]


def text_figure(
    attribution: Attribution, layer: int | None = None, layers: Literal["auto", "mean", "each"] = "auto"
) -> Figure:
    """Return a matplotlib figure of the result, with labelled axes and colours that stay ordered in grey.

    Several targets: the map (target × source) and, beside it, one small map per layer. One target: its sources as bars
    (or for long texts a strip of layer × source), and how much each layer carried.

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
        return _single_target(attribution, layer)
    return _map(attribution, layer, small=layer is None and layers != "mean" and count in SMALL_MULTIPLES)


def _map(attribution: Attribution, layer: int | None, small: bool) -> Figure:
    layers = attribution.axes["layer"]
    matrix = attribution.matrix(layer).numpy()
    targets, sources = matrix.shape
    labelled = max(targets, sources) <= LABELLED_TOKENS
    side = min(max(4.6, 1.2 + 0.17 * sources), 9.0) if labelled else 6.0
    columns = _columns(len(layers))
    widths = (side + 1.3, columns * side / -(-len(layers) // columns)) if small else (side + 1.3,)
    sheet = Figure(figsize=(sum(widths), side), layout="constrained")
    left, *rest = sheet.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    axes = left.subplots()
    image = _heat(axes, matrix, attribution.signed)
    if attribution.signed and labelled:
        _mark_negative(axes, matrix)
    _axis_labels(axes, "source token", "target token")
    _token_ticks(axes, attribution, labelled)
    _title(axes, attribution, f"layer {layer}" if layer is not None else _mean_of(attribution))
    _colourbar(left, image, axes, attribution)
    for right in rest:
        _small_maps(right, attribution, columns)
    return sheet


def _small_maps(part: FigureBase, attribution: Attribution, columns: int) -> None:
    layers = attribution.axes["layer"]
    rows = -(-len(layers) // columns)
    grid = part.subplots(rows, columns, squeeze=False)
    for axes, number in zip(grid.flat, layers, strict=False):
        _heat(axes, attribution.matrix(number).numpy(), attribution.signed)
        axes.set_title(f"{number}", fontsize=7, pad=2)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes in grid.flat[len(layers) :]:
        axes.set_axis_off()
    part.suptitle("each layer, on its own scale", fontsize=8)


def _single_target(attribution: Attribution, layer: int | None) -> Figure:
    layers = attribution.axes["layer"]
    sources = len(attribution.tokens)
    bars = sources <= BARS
    sheet = Figure(figsize=(6.2, max(3.0, 0.9 + 0.2 * sources) if bars else 4.6), layout="constrained")
    several = len(layers) > 1
    ratios = {"width_ratios": (3, 1)} if bars else {"height_ratios": (3, 2)}
    shape = ((1, 2) if bars else (2, 1)) if several else (1, 1)
    grid = sheet.subplots(*shape, squeeze=False, gridspec_kw=ratios if several else None).ravel()
    if bars:
        _source_bars(grid[0], attribution, layer)
    else:
        _layer_strip(sheet, grid[0], attribution)
    if several:
        _layer_bars(grid[1], attribution, upright=not bars, chosen=layer)
    return sheet


def _source_bars(axes: Axes, attribution: Attribution, layer: int | None) -> None:
    row = attribution.row(attribution.axes["target"][0], layer).numpy()
    places = np.arange(len(row))
    drawn = axes.barh(places, row, color=np.where(row < 0, NEGATIVE, POSITIVE), edgecolor="#222222", linewidth=0.4)
    for bar, score in zip(drawn, row, strict=True):
        if score < 0:
            bar.set_hatch("////")
    axes.set_ylim(len(row) - 0.5, -0.5)
    _label(axes.yaxis, places, [drawable(token) for token in attribution.tokens])
    axes.axvline(0, color="#222222", linewidth=0.6)
    hatched = " (hatched: negative)" if (row < 0).any() else ""
    _axis_labels(axes, f"{attribution.method} score{hatched}", "source token")
    axes.spines[["top", "right"]].set_visible(False)
    _title(axes, attribution, f"layer {layer}" if layer is not None else _mean_of(attribution))


def _layer_strip(sheet: Figure, axes: Axes, attribution: Attribution) -> None:
    scores = attribution.scores[:, 0].numpy()
    image = _heat(axes, scores, attribution.signed)
    axes.set_aspect("auto")
    _axis_labels(axes, "source position", "layer")
    _number_ticks(axes.yaxis, attribution.axes["layer"])
    _number_ticks(axes.xaxis, attribution.axes["source"])
    _title(axes, attribution, "each layer")
    _colourbar(sheet, image, axes, attribution)


def _layer_bars(axes: Axes, attribution: Attribution, upright: bool, chosen: int | None) -> None:
    layers = attribution.axes["layer"]
    mass = attribution.layer_mass(attribution.axes["target"][0]).numpy()
    places = np.arange(len(layers))
    colours = [POSITIVE if chosen in (None, number) else "#c8ccd2" for number in layers]
    if upright:
        axes.bar(places, mass, color=colours, edgecolor="#222222", linewidth=0.4)
        _number_ticks(axes.xaxis, layers)
        _axis_labels(axes, "layer", "sum of |score|")
    else:
        axes.barh(places, mass, color=colours, edgecolor="#222222", linewidth=0.4)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        _number_ticks(axes.yaxis, layers)
        _axis_labels(axes, "sum of |score|", "layer")
    axes.spines[["top", "right"]].set_visible(False)


def _heat(axes: Axes, matrix: np.ndarray, signed: bool) -> AxesImage:
    """Draw scores so that the shade is the square root of the share of the largest, as everywhere in this package."""
    largest = float(np.abs(matrix).max()) or 1.0
    return axes.imshow(matrix, cmap=colormap(signed), norm=score_norm(largest, signed), interpolation="nearest")


def _colourbar(sheet: FigureBase, image: AxesImage, axes: Axes, attribution: Attribution) -> None:
    bar = sheet.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label(f"{attribution.method} score", fontsize=LETTERS)
    bar.ax.tick_params(labelsize=LETTERS)


def _mark_negative(axes: Axes, matrix: np.ndarray) -> None:
    """Write a minus on clearly negative cells, so that the sign survives printing in grey."""
    largest = float(np.abs(matrix).max()) or 1.0
    size = 5 if max(matrix.shape) > 40 else 7
    for i, j in np.argwhere(matrix < -0.04 * largest):
        dark = matrix[i, j] < -0.35 * largest
        axes.text(j, i, "\u2212", ha="center", va="center", fontsize=size, color="#ffffff" if dark else "#000000")


def _token_ticks(axes: Axes, attribution: Attribution, labelled: bool) -> None:
    if not labelled:
        _number_ticks(axes.xaxis, attribution.axes["source"])
        _number_ticks(axes.yaxis, attribution.axes["target"])
        return
    names = [drawable(token) for token in attribution.tokens]
    places = [attribution.axes["source"].index(position) for position in attribution.axes["target"]]
    _label(axes.xaxis, range(len(names)), names, rotation=90)
    _label(axes.yaxis, range(len(places)), [names[place] for place in places])


def _label(axis: matplotlib.axis.Axis, places: object, names: list[str], rotation: int = 0) -> None:
    """Set tick labels that are text and never mathematics: a token may hold dollar signs."""
    short = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in names]
    axis.set_ticks(list(places), short, rotation=rotation)  # type: ignore[call-overload]
    size = LETTERS if len(names) <= 32 else 6
    for label in axis.get_ticklabels():
        label.set(parse_math=False, fontsize=size, family=families())


def _number_ticks(axis: matplotlib.axis.Axis, numbers: tuple[int, ...]) -> None:
    """Label some places, evenly spread, with the numbers that stand there (layers need not be consecutive)."""
    step = max(1, -(-len(numbers) // 12))
    if step > 4:
        step = 10 ** (len(str(step)) - 1) * (1 + int(str(step)[0]))
    places = range(0, len(numbers), step)
    axis.set_ticks(list(places), [str(numbers[place]) for place in places], fontsize=LETTERS)


def _axis_labels(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=LETTERS + 1)
    axes.set_ylabel(y, fontsize=LETTERS + 1)
    axes.tick_params(labelsize=LETTERS)


def _title(axes: Axes, attribution: Attribution, what: str) -> None:
    name = attribution.model.name if len(attribution.model.name) <= 40 else "…" + attribution.model.name[-39:]
    lines = f"{attribution.method}, {what}\n{drawable(name)}"
    if len(attribution.axes["target"]) == 1:
        target = attribution.target
        lines += f"\ntarget {target.position} ‘{drawable(target.token)}’"
        if target.next_tokens:
            token, probability = target.next_tokens[0]
            lines += f", predicts ‘{drawable(token)}’ ({probability:.0%})"
    axes.set_title(lines, fontsize=9, loc="left", parse_math=False, family=families())


def _mean_of(attribution: Attribution) -> str:
    layers = attribution.axes["layer"]
    if len(layers) > 1:
        return f"{attribution.over_layers} of {len(layers)} layers"
    return "whole model" if layers[0] == WHOLE_MODEL else f"layer {layers[0]}"


def _columns(count: int) -> int:
    """How many columns of small maps stand well beside one large square."""
    return next(columns for columns in (2, 3, 4, 5, 6, 7) if count <= columns * (columns + 1) or columns == 7)
