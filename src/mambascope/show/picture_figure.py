"""Figures of pictures: the picture, its scores laid over it with their scale, and one small overlay per layer."""

from __future__ import annotations

from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase
from matplotlib.patches import Rectangle

from mambascope.attribution import WHOLE_MODEL, Attribution
from mambascope.show.check import SMALL_MULTIPLES, require_finite, require_layers, require_picture
from mambascope.show.overlay import ends, ground_of, overlay, pixel_overlay, read_pixels
from mambascope.show.palette import colormap
from mambascope.show.picture_words import heading, how_to_read, sees, target_place, what_is_explained
from mambascope.show.scale import score_norm
from mambascope.show.sheet import Sheet
from mambascope.show.typeface import drawable, families
from mambascope.trust import caution

LETTERS = 8  # points
SIDE = 3.1  # inches of one picture's longer side
STRIP_COLUMNS, FEWEST_COLUMNS = 8, 6
CLEARLY = 0.1  # of the largest score


def picture_figure(
    attribution: Attribution,
    position: int | None = None,
    layer: int | None = None,
    layers: Literal["auto", "mean", "each"] = "auto",
) -> Sheet:
    """Return a matplotlib figure: the picture, the scores over it, and each layer's scores below.

    A heading says what is shown, a caption how to read it and how much the patches hold. If a method goes down to
    the pixels, their scores are drawn beside those of the patches.

    Args:
        attribution: A result of a picture.
        position: The target; by default the one in focus.
        layer: Draw this layer alone, by its number in the model; by default all together.
        layers: Small pictures below: `each` layer's, none (`mean`), or those of 2 to 48 layers (`auto`).

    Raises:
        InputError: if the result is of a text, that position or layer is not in it, `layers` is `each` for a
            result of 1 or more than 48 layers or together with `layer`, or a score is not a finite number.
    """
    require_finite(attribution)
    require_layers(attribution, layer, layers)
    grid = require_picture(attribution)
    image = ground_of(attribution.image, grid)
    height, width = image.shape[:2]
    tall, wide = SIDE * min(1.0, height / width), SIDE * min(1.0, width / height)
    count = len(attribution.axes["layer"])
    count = count if layer is None and layers != "mean" and count in SMALL_MULTIPLES else 0
    rows = -(-count // STRIP_COLUMNS)
    columns = max(-(-count // max(rows, 1)), FEWEST_COLUMNS)
    to_pixels = attribution.pixels is not None and position is None
    room = 2 * wide + 1.1 + (wide + 0.9 if to_pixels else 0)
    strip = rows * (room / columns * height / width + 0.2) + 0.3 if rows else 0.0
    sheet = Sheet(figsize=(room, tall + 1.3 + strip), layout="constrained")
    sheet.head(drawable(heading(attribution, position)))
    sheet.caption(how_to_read(attribution, position, layer, rows > 0), caution(attribution.diagnostics))
    parts: Any = sheet.subfigures(2, 1, height_ratios=(tall + 0.75, strip)) if rows else [sheet]
    left, right, *pixels = parts[0].subplots(1, 3 if to_pixels else 2)
    left.imshow(image.numpy())
    left.set_title(picture_says(attribution), **_text(LETTERS + 1))
    _panel_of_patches(parts[0], right, attribution, position, layer)
    for axes in pixels:
        _panel_of_pixels(parts[0], axes, attribution)
    for axes in (left, right, *pixels):
        axes.set(xticks=[], yticks=[])
        outline_target(axes, attribution, position, (height, width))
    if rows:
        _strip(parts[1], attribution, position, rows, columns)
    return sheet


def _panel_of_patches(
    sheet: FigureBase, axes: Axes, attribution: Attribution, position: int | None, layer: int | None
) -> None:
    draw_overlay(axes, attribution, position, layer)
    if attribution.signed:
        _mark_negative(axes, attribution, position, layer)
    axes.set_title(scores_say(attribution, position, layer), **_text(LETTERS + 1))
    smallest, largest = ends(attribution.picture(position, layer), attribution.signed)
    _scale(sheet, axes, score_norm(largest, attribution.signed, smallest), attribution, "score")


def _panel_of_pixels(sheet: FigureBase, axes: Axes, attribution: Attribution) -> None:
    axes.imshow(pixel_overlay(attribution))
    axes.set_title(f"{attribution.method}\nof every pixel, on its own scale", **_text(LETTERS + 1))
    largest = float(read_pixels(attribution).abs().max())
    _scale(sheet, axes, score_norm(largest, attribution.signed), attribution, "score of a pixel")


def _scale(sheet: FigureBase, axes: Axes, norm: Normalize, attribution: Attribution, says: str) -> None:
    """Draw the scale of the scores beside their overlay."""
    mapped = ScalarMappable(norm, colormap(attribution.signed))
    bar = sheet.colorbar(mapped, cax=axes.inset_axes((1.03, 0.0, 0.05, 1.0)))
    bar.set_label(f"{attribution.method} {says}", fontsize=LETTERS)
    bar.ax.tick_params(labelsize=LETTERS - 1)


def draw_overlay(
    axes: Axes,
    attribution: Attribution,
    position: int | None = None,
    layer: int | str | None = None,
    stretched: bool = False,
) -> None:
    """Draw the picture in pale grey with the scores of one target over it, on their own scale, see `ends`."""
    axes.imshow(overlay(attribution, position, layer, stretched))


def outline_target(axes: Axes, attribution: Attribution, position: int | None, size: tuple[int, int]) -> None:
    """Outline the patch that is explained, in black and white; the class token has none."""
    place = target_place(attribution, position)
    if place is None or attribution.grid is None:
        return
    grid, (row, column) = attribution.grid, place
    down, right = size[0] / grid.size[0], size[1] / grid.size[1]
    corner = column * grid.stride * right - 0.5, row * grid.stride * down - 0.5
    for colour, thick in (("#ffffff", 2.6), ("#000000", 1.1)):
        frame = Rectangle(corner, grid.patch * right, grid.patch * down, fill=False, edgecolor=colour, linewidth=thick)
        axes.add_patch(frame)


def picture_says(attribution: Attribution) -> str:
    """Return the model's name and the classes that it predicts, with their probabilities, for a title."""
    classes, name = drawable(sees(attribution, 2)), drawable(_short(attribution.model.name))
    between = ", " if attribution.target.independent else " "
    return f"{name}\npredicts{between}{_short(classes, 48, end=False)}" if attribution.target.next_tokens else name


def scores_say(attribution: Attribution, position: int | None = None, layer: int | None = None) -> str:
    """Return what is laid over the picture: method, layers, and what it explains, for a title."""
    layers = attribution.axes["layer"]
    which = f"layer {layer}" if layer is not None else f"{attribution.over_layers} of {len(layers)} layers"
    if layer is None and len(layers) == 1:
        which = "whole model" if layers[0] == WHOLE_MODEL else f"layer {layers[0]}"
    return f"{attribution.method}, {which}\n{_short(drawable(what_is_explained(attribution, position)), 48, end=False)}"


def _mark_negative(axes: Axes, attribution: Attribution, position: int | None, layer: int | None) -> None:
    """Write a minus on clearly negative patches, so that the sign survives printing in grey."""
    grid, scores = require_picture(attribution), attribution.picture(position, layer)
    size = ground_of(attribution.image, grid).shape[:2]
    largest = float(scores.abs().max())
    down, right = size[0] / grid.size[0], size[1] / grid.size[1]
    for row, column in (scores < -CLEARLY * largest).nonzero().tolist():
        x = (column * grid.stride + grid.patch / 2) * right - 0.5
        y = (row * grid.stride + grid.patch / 2) * down - 0.5
        dark = float(scores[row, column]) < -0.35 * largest
        axes.text(x, y, "\u2212", ha="center", va="center", fontsize=6, color="#ffffff" if dark else "#702603")


def _strip(part: FigureBase, attribution: Attribution, position: int | None, rows: int, columns: int) -> None:
    layers = attribution.axes["layer"]
    grid = part.subplots(rows, columns, squeeze=False)
    for axes, number in zip(grid.flat, layers, strict=False):
        draw_overlay(axes, attribution, position, number)
        axes.set_title(f"{number}", fontsize=7, pad=2)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes in grid.flat[len(layers) :]:
        axes.set_axis_off()
    part.suptitle("each layer, on its own scale", fontsize=LETTERS)


def _text(size: int) -> dict[str, Any]:
    """Return keywords for text that is never mathematics: a class may be called $x$."""
    return {"fontsize": size, "loc": "left", "parse_math": False, "family": families()}


def _short(name: str, letters: int = 40, end: bool = True) -> str:
    if len(name) <= letters:
        return name
    return "…" + name[-letters + 1 :] if end else name[: letters - 1] + "…"
