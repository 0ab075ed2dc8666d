"""A method's scores for a picture: for each class a score for every patch, and from them one for every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope import readouts
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.evaluate.score_rows import score_rows
from mambascope.grid import Grid
from mambascope.inputs.patches import class_positions, patch_grid
from mambascope.trace import Trace, capture


class PatchMaps(NamedTuple):
    """One method's maps in one layer (`NO_LAYER`: the whole model), one per class."""

    method: str
    layer: int
    maps: Float[Tensor, "classes rows columns"]


def patch_maps(
    model: nn.Module,
    inputs: Mapping[str, Any],
    methods: Sequence[str],
    classes: Sequence[int],
    trace: Trace | None = None,
) -> Iterator[PatchMaps]:
    """Yield every method's maps of one picture, for each layer (if it scores layers) and for the whole model.

    The scores are the row of the position that classes are read from: the class token's row without its own score, or
    the mean of all rows. Methods that do not depend on the class give the same map for each class.

    Args:
        model: A vision model.
        inputs: One picture.
        methods: Names of methods.
        classes: The classes to explain.
        trace: A trace of these inputs, if there is one already.

    Raises:
        UnsupportedModelError: see `class_grid`.
    """
    grid, positions = class_grid(model, inputs)
    numbers = [readouts.class_(number, positions=positions) for number in classes]
    trace = capture(model, **inputs) if trace is None else trace
    for scored in score_rows(model, inputs, methods, numbers, trace):
        yield PatchMaps(scored.method, scored.layer, grid.over_patches(scored.rows.float().cpu()))


def class_grid(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Grid, tuple[int, ...]]:
    """Return the grid of a model's patches, and the positions that it reads classes from.

    Raises:
        UnsupportedModelError: if the model does not provide both.
    """
    grid, positions = patch_grid(model, inputs), class_positions(model, inputs)
    if grid is None or positions is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not say how it cuts a picture into patches, or where it reads classes"
        )
    return grid, positions


def pixel_map(patches: Float[Tensor, "*b rows columns"], size: tuple[int, int]) -> Float[Tensor, "*b H W"]:
    """Return a score for every pixel, interpolated bilinearly between the patches' centres (Chefer et al. 2021).

    Args:
        patches: A score for every patch, in the layout of the picture.
        size: The picture's height and width.

    Raises:
        InputError: if a score is NaN or infinite, or there are more patches than pixels.
    """
    rows, columns = patches.shape[-2:]
    if rows > size[0] or columns > size[1]:
        raise InputError(f"a picture of {size[0]} x {size[1]} pixels has no {rows} x {columns} patches")
    if not patches.isfinite().all():
        raise InputError("a patch's score is NaN or infinite")
    stacked = patches.double().reshape(-1, 1, rows, columns)
    pixels = F.interpolate(stacked, size, mode="bilinear", align_corners=False)
    return pixels.reshape(*patches.shape[:-2], *size).to(patches.dtype)
