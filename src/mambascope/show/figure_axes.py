"""Parts that figures of texts share: heat maps with their scale, bars of layers, ticks that are tokens or numbers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.image import AxesImage

from mambascope.attribution import Attribution
from mambascope.show.palette import ANCHORS, colormap
from mambascope.show.scale import score_norm
from mambascope.show.typeface import drawable, families

LONGEST_NAME = 20
LETTERS = 8  # points
POSITIVE, NEGATIVE = ANCHORS["light"]["positive"][3], ANCHORS["light"]["negative"][3]


def layer_bars(axes: Axes, attribution: Attribution, chosen: int | None) -> None:
    """Draw how much each layer carried for the single target, the chosen one in colour."""
    layers = attribution.axes["layer"]
    mass = attribution.layer_mass(attribution.axes["target"][0]).numpy()
    colours = [POSITIVE if chosen in (None, number) else "#c8ccd2" for number in layers]
    axes.barh(np.arange(len(layers)), mass, color=colours, edgecolor="#222222", linewidth=0.4)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    number_ticks(axes.yaxis, layers)
    axis_labels(axes, "sum of |score|", "layer")
    axes.spines[["top", "right"]].set_visible(False)


def heat(axes: Axes, matrix: np.ndarray, signed: bool) -> AxesImage:
    """Draw scores in shades that follow the square root of their share of the largest, as all over this package."""
    largest = float(np.abs(matrix).max()) or 1.0
    return axes.imshow(matrix, cmap=colormap(signed), norm=score_norm(largest, signed), interpolation="nearest")


def colourbar(sheet: FigureBase, image: AxesImage, axes: Axes, attribution: Attribution) -> None:
    """Draw the scale of a heat map beside it."""
    bar = sheet.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label(f"{attribution.method} score", fontsize=LETTERS)
    bar.ax.tick_params(labelsize=LETTERS)


def mark_negative(axes: Axes, matrix: np.ndarray) -> None:
    """Write a minus on clearly negative cells, so that the sign survives printing in grey."""
    largest = float(np.abs(matrix).max()) or 1.0
    size = 5 if max(matrix.shape) > 40 else 7
    for i, j in np.argwhere(matrix < -0.04 * largest):
        dark = matrix[i, j] < -0.35 * largest
        axes.text(j, i, "\u2212", ha="center", va="center", fontsize=size, color="#ffffff" if dark else "#000000")


def token_ticks(axis: matplotlib.axis.Axis, names: Sequence[str], rotation: int = 0) -> None:
    """Set tick labels that are drawn as text, never as mathematics: a token may contain dollar signs."""
    axis.set_ticks(range(len(names)), [short_name(name) for name in names], rotation=rotation)
    size = LETTERS if len(names) <= 32 else 6
    for label in axis.get_ticklabels():
        label.set(parse_math=False, fontsize=size, family=families())


def short_name(token: str) -> str:
    """Return a token's name for figures: drawable, and not too long."""
    name = drawable(token)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def number_ticks(axis: matplotlib.axis.Axis, numbers: tuple[int, ...]) -> None:
    """Label some places, evenly spaced, with the numbers there (layers need not be consecutive)."""
    step = max(1, -(-len(numbers) // 12))
    if step > 4:
        step = 10 ** (len(str(step)) - 1) * (1 + int(str(step)[0]))
    places = range(0, len(numbers), step)
    axis.set_ticks(list(places), [str(numbers[place]) for place in places], fontsize=LETTERS)


def axis_labels(axes: Axes, x: str, y: str) -> None:
    """Name both axes."""
    axes.set_xlabel(x, fontsize=LETTERS + 1)
    axes.set_ylabel(y, fontsize=LETTERS + 1)
    axes.tick_params(labelsize=LETTERS)
