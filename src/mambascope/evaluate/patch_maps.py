"""What methods say of a picture: for each class that is asked about, a score for every patch as they lie in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import UnsupportedModelError
from mambascope.evaluate.score_rows import score_rows
from mambascope.grid import Grid
from mambascope.methods.readout import class_readout
from mambascope.trace import Trace, capture
from mambascope.trace.patches import patch_grid


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

    The scores are those of the class token's row; its own score is left out. Methods that look at no class give the
    same map for each.

    Args:
        model: A vision model.
        inputs: One picture.
        methods: Names of methods.
        classes: The classes asked about.
        trace: A capture of these inputs, if there is one.

    Raises:
        UnsupportedModelError: see `class_grid`.
    """
    grid = class_grid(model, inputs)
    place = grid.class_position
    assert place is not None
    readouts = [class_readout(number, positions=(place,)) for number in classes]
    trace = capture(model, **inputs) if trace is None else trace
    for scored in score_rows(model, inputs, methods, [place] * len(readouts), readouts, trace):
        yield PatchMaps(scored.method, scored.layer, grid.over_patches(scored.rows.float().cpu()))


def class_grid(model: nn.Module, inputs: Mapping[str, Any]) -> Grid:
    """Return how a model that reads its classes from a class token cuts a picture.

    Raises:
        UnsupportedModelError: if it does not say how it cuts pictures, or has no class token.
    """
    grid = patch_grid(model, inputs)
    if grid is None:
        raise UnsupportedModelError(f"{type(model).__name__} does not say how it cuts a picture into patches")
    if grid.class_position is None:
        raise UnsupportedModelError(
            f"this {type(model).__name__} reads classes from the mean of its patches; maps are judged of models with a "
            "class token"
        )
    return grid
