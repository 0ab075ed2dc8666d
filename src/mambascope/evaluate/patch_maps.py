"""What methods say of a picture: for each class that is asked about, a score for every patch as they lie in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from mambascope import readouts
from mambascope.errors import UnsupportedModelError
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
    """Yield every method's maps of one picture, of each layer where it has layers and of the whole model.

    The scores are the row of where classes are read: the class token's, its own score left out, or the mean of all
    rows. Methods that look at no class give the same map for each.

    Args:
        model: A vision model.
        inputs: One picture.
        methods: Names of methods.
        classes: The classes asked about.
        trace: A capture of these inputs, if there is one.

    Raises:
        UnsupportedModelError: see `class_grid`.
    """
    grid, positions = class_grid(model, inputs)
    numbers = [readouts.class_(number, positions=positions) for number in classes]
    trace = capture(model, **inputs) if trace is None else trace
    for scored in score_rows(model, inputs, methods, numbers, trace):
        yield PatchMaps(scored.method, scored.layer, grid.over_patches(scored.rows.float().cpu()))


def class_grid(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Grid, tuple[int, ...]]:
    """Return how a model cuts a picture, and the positions that it reads classes from.

    Raises:
        UnsupportedModelError: if it says neither.
    """
    grid, positions = patch_grid(model, inputs), class_positions(model, inputs)
    if grid is None or positions is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not say how it cuts a picture into patches, or where it reads classes"
        )
    return grid, positions
