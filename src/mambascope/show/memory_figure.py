"""What the layers remember, as a figure: distances, decays, the state and how alike tokens become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mambascope.show.figure import save_sheet
from mambascope.show.sheet import Sheet
from mambascope.theory.memory import LayerMemory

#: One colour per kind of mixer; the order of lightness differs too, for black and white.
COLOURS = {
    "scan": "#0f5ca8",
    "attention": "#b84e04",
    "delta": "#2a9d6f",
    "recurrence": "#6a4fa3",
    "conv": "#8a8f98",
    "shift": "#c9a227",
}


def save_memory_figure(found: Sequence[LayerMemory], path: Path, *, patches: bool = False) -> Path:
    """Write `memory_figure` to a .png, .pdf or .svg file, and return its path.

    Raises:
        InputError: if the file has another ending, or its folder does not exist.
        OutputError: if the file cannot be written.
    """
    return save_sheet(lambda: memory_figure(found, patches=patches), path)


def memory_figure(found: Sequence[LayerMemory], *, patches: bool = False) -> Sheet:
    """Return the figure.

    Args:
        found: What `mambascope.theory.memory.memory` returned, layer by layer.
        patches: Whether distances are those of patches in a picture.
    """
    unit = "patches" if patches else "tokens"
    sheet = Sheet(figsize=(8.5, 6.4), layout="constrained")
    axes = sheet.subplots(2, 3)
    _boxes(axes[0, 0], found, "distance", f"mean distance, {unit}")
    _boxes(axes[0, 1], found, "reach", "radius of 90 % of |α|, patches" if patches else "tokens with 90 % of |α|")
    _boxes(axes[0, 2], found, "entropy", "entropy of |α|, bits")
    _spectra(axes[1, 0], found)
    _states(axes[1, 1], found)
    _likeness(axes[1, 2], found)
    kinds = dict.fromkeys(one.kind for one in found)
    handles = [axes[0, 0].plot([], [], color=_colour(kind), linewidth=4, label=kind)[0] for kind in kinds]
    sheet.legend(handles=handles, loc="outside upper center", ncols=len(kinds), frameon=False, fontsize=8)
    return sheet


def _colour(kind: str) -> str:
    return COLOURS.get(kind, "#444444")


def _boxes(axes: Axes, found: Sequence[LayerMemory], what: str, name: str) -> None:
    """Draw the maps' quantiles of each layer."""
    for one in found:
        values = getattr(one, what).cpu().numpy()
        low, below, middle, above, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
        colour = _colour(one.kind)
        axes.vlines(one.layer, low, high, color=colour, linewidth=0.8)
        axes.vlines(one.layer, below, above, color=colour, linewidth=4)
        axes.plot([one.layer], [middle], marker="o", markersize=3, color="white", markeredgecolor=colour)
    _named(axes, "layer", name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)


def _spectra(axes: Axes, found: Sequence[LayerMemory]) -> None:
    """Draw every layer's decays in order: the later the layer, the stronger the line."""
    for one, style in _lines(found):
        values = one.decay.sort().values.cpu().numpy()
        axes.plot(np.linspace(0, 1, len(values)), values, marker="o" if len(values) == 1 else None, **style)
    _named(axes, "share of the maps", "decay per token or patch")
    axes.set_ylim(bottom=0)


def _states(axes: Axes, found: Sequence[LayerMemory]) -> None:
    """Draw the share of the last state that each token holds, by how many came after it."""
    for one, style in _lines(found):
        if one.held is not None:
            axes.plot(np.arange(len(one.held)), one.held.flip(0).cpu().numpy(), **style)
    if not axes.lines:
        axes.text(0.5, 0.5, "no layer keeps a state", ha="center", va="center", transform=axes.transAxes, fontsize=8)
    _named(axes, "tokens since", "share of the state")
    axes.set_ylim(bottom=0)


def _lines(found: Sequence[LayerMemory]) -> Iterator[tuple[LayerMemory, dict[str, Any]]]:
    """Yield each mixer with the style of its line."""
    last = max(one.layer for one in found)
    for one in found:
        yield one, {"color": _colour(one.kind), "alpha": 0.3 + 0.7 * one.layer / max(last, 1), "linewidth": 1.2}


def _likeness(axes: Axes, found: Sequence[LayerMemory]) -> None:
    """Draw how alike the tokens' vectors are after every layer."""
    layers = {one.layer: one.similarity for one in found if one.similarity == one.similarity}
    axes.plot(list(layers), list(layers.values()), color="#222222", marker="o", markersize=3, linewidth=1)
    _named(axes, "layer", "mean cosine of two tokens")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(min(0.0, *layers.values(), 0.0) - 0.02, 1.02)


def _named(axes: Axes, x: str, y: str) -> None:
    """Name the axes in this package's letters."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
