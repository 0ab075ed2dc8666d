"""What methods say of a picture: for each class that is asked about, a score for every patch as they lie in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.errors import UnsupportedModelError
from mambascope.evaluate.forms import find_form
from mambascope.evaluate.score_rows import ScoredRows, score_rows
from mambascope.evaluate.task import NO_LAYER
from mambascope.grid import Grid
from mambascope.methods.case import Case
from mambascope.methods.readout import class_readout
from mambascope.methods.registry import Method
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
    for name in methods:
        method, _ = find_form(name)
        if method.score_many is None:
            found: Iterable[ScoredRows] = score_rows(model, inputs, [name], [place] * len(readouts), readouts, trace)
        else:
            found = _one_by_one(method, [Case(model, inputs, trace, (place,), one) for one in readouts])
        for scored in found:
            yield PatchMaps(scored.method, scored.layer, grid.over_patches(scored.rows.float().cpu()))


def _one_by_one(method: Method, cases: Sequence[Case]) -> Iterator[ScoredRows]:
    """Yield the rows of a method that explains a logit, with the rules that it has for pictures.

    What runs many readouts of a text side by side has the rules for texts.
    """
    assert method.score is not None
    scored = [method.score(case) for case in cases]
    layers = torch.stack([one.scores for one in scored], dim=1)
    if len(layers) > 1:
        yield from (ScoredRows(method.name, number, rows) for number, rows in enumerate(layers))
    whole = layers.sum(dim=0) if scored[0].over_layers == "sum" else layers.mean(dim=0)
    yield ScoredRows(method.name, NO_LAYER, whole)


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
