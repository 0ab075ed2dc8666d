"""What methods say of several targets of one text: the rows of each layer and of the model, from one capture."""

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
    """One method's scores in one layer (`NO_LAYER`: the whole model), a row per target."""

    method: str
    layer: int
    rows: Float[Tensor, "T L"]


def score_rows(
    model: nn.Module,
    inputs: Mapping[str, Any],
    methods: Sequence[str],
    targets: Sequence[int],
    readouts: Sequence[Readout],
    trace: Trace | None = None,
) -> Iterator[ScoredRows]:
    """Yield every method's rows for the targets, of each layer where it has layers and of the whole model.

    Methods that score layers have their mean over layers as the whole model's rows, as `explain` does. Signed scores
    come with their sign.

    Args:
        model: A stock model.
        inputs: One text.
        methods: Names of methods, with their form if it is not the published one (`rollout:released`).
        targets: Positions.
        readouts: What is explained at each of them.
        trace: A capture of these inputs, if there is one.
    """
    trace = capture(model, **inputs) if trace is None else trace
    for name in methods:
        (method, compat), first = find_form(name), 0
        if method.row is not None and compat == "released":
            first, over = first_released_layer(len(trace.layers)), "mean"
            layers = [_released_rows(method, trace, layer, targets) for layer in range(first, len(trace.layers))]
        elif method.row is not None:
            layers, over = _layer_rows(method, trace, targets), "mean"
        elif method.whole_map is not None and compat == "published":
            layers, over = [method.whole_map(trace)[0, list(targets)]], "sum"
        else:
            layers, over = _model_rows(method, model, inputs, trace, targets, readouts, compat)
        if method.row is not None or len(layers) > 1:
            yield from (ScoredRows(name, number, rows) for number, rows in enumerate(layers, start=first))
        stacked = torch.stack(layers)
        yield ScoredRows(name, NO_LAYER, stacked.sum(dim=0) if over == "sum" else stacked.mean(dim=0))


def _layer_rows(method: Method, trace: Trace, targets: Sequence[int]) -> list[Tensor]:
    assert method.map is not None
    return [method.map(trace, layer)[0, list(targets)] for layer in range(len(trace.layers))]


def _released_rows(method: Method, trace: Trace, layer: int, targets: Sequence[int]) -> Tensor:
    assert method.row is not None
    return torch.stack([method.row(trace, layer, target, compat="released")[0] for target in targets])


def _model_rows(
    method: Method,
    model: nn.Module,
    inputs: Mapping[str, Any],
    trace: Trace,
    targets: Sequence[int],
    readouts: Sequence[Readout],
    compat: Compat,
) -> tuple[list[Tensor], str]:
    """Return rows per layer, or one set for the whole model, and how layers make the whole."""
    if method.score_many is not None:
        return list(method.score_many(model, inputs, trace, readouts)), "sum"
    assert method.score is not None
    scored = [
        method.score(Case(model, inputs, trace, (target,), readout, compat))
        for target, readout in zip(targets, readouts, strict=True)
    ]
    return list(torch.stack([one.scores for one in scored], dim=1)), scored[0].over_layers
