"""What methods say of several readouts of one text: the rows of each layer and of the model, from one capture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.evaluate.forms import find_form
from mambascope.evaluate.task import NO_LAYER
from mambascope.methods.case import Case
from mambascope.methods.readout import Readout
from mambascope.methods.registry import Method
from mambascope.methods.released import Compat, first_released_layer
from mambascope.trace import Trace, capture


class ScoredRows(NamedTuple):
    """One method's scores in one layer (`NO_LAYER`: the whole model), a row per readout."""

    method: str
    layer: int
    rows: Float[Tensor, "T L"]


def score_rows(
    model: nn.Module,
    inputs: Mapping[str, Any],
    methods: Sequence[str],
    readouts: Sequence[Readout],
    trace: Trace | None = None,
) -> Iterator[ScoredRows]:
    """Yield every method's rows for the readouts, of each layer where it has layers and of the whole model.

    A readout that is read from several positions, as a class is from the mean of all, has the mean of their rows.
    Methods that score layers have their mean over layers as the whole model's rows, as `explain` does. Signed scores
    come with their sign.

    Args:
        model: A stock model.
        inputs: One text.
        methods: Names of methods, with their form if it is not the published one (`rollout:released`).
        readouts: What is explained, with the positions where it is read.
        trace: A capture of these inputs, if there is one.
    """
    trace = capture(model, **inputs) if trace is None else trace
    for name in methods:
        (method, compat), first = find_form(name), 0
        if method.row is not None and compat == "released":
            first, over = first_released_layer(len(trace.layers)), "mean"
            layers = [_released_rows(method, trace, layer, readouts) for layer in range(first, len(trace.layers))]
        elif method.row is not None:
            layers, over = _layer_rows(method, trace, readouts), "mean"
        elif method.whole_map is not None and compat == "published":
            layers, over = [_at(method.whole_map(trace)[0], readouts)], "sum"
        else:
            layers, over = _model_rows(method, model, inputs, trace, readouts, compat)
        if method.row is not None or len(layers) > 1:
            yield from (ScoredRows(name, number, rows) for number, rows in enumerate(layers, start=first))
        stacked = torch.stack(layers)
        yield ScoredRows(name, NO_LAYER, stacked.sum(dim=0) if over == "sum" else stacked.mean(dim=0))


def _layer_rows(method: Method, trace: Trace, readouts: Sequence[Readout]) -> list[Tensor]:
    assert method.map is not None
    return [_at(method.map(trace, layer)[0], readouts) for layer in range(len(trace.layers))]


def _released_rows(method: Method, trace: Trace, layer: int, readouts: Sequence[Readout]) -> Tensor:
    assert method.row is not None
    row = method.row
    return torch.stack(
        [
            torch.stack([row(trace, layer, position, compat="released")[0] for position in readout.positions]).mean(0)
            for readout in readouts
        ]
    )


def _at(scores: Float[Tensor, "L L"], readouts: Sequence[Readout]) -> Float[Tensor, "T L"]:
    """Return each readout's row of a map."""
    return torch.stack([scores[list(readout.positions)].mean(dim=0) for readout in readouts])


def _model_rows(
    method: Method,
    model: nn.Module,
    inputs: Mapping[str, Any],
    trace: Trace,
    readouts: Sequence[Readout],
    compat: Compat,
) -> tuple[list[Tensor], str]:
    """Return rows per layer, or one set for the whole model, and how layers make the whole."""
    if method.score_many is not None:
        return list(method.score_many(model, inputs, trace, readouts)), "sum"
    assert method.score is not None
    scored = [method.score(Case(model, inputs, trace, readout.positions, readout, compat)) for readout in readouts]
    return list(torch.stack([one.scores for one in scored], dim=1)), scored[0].over_layers
