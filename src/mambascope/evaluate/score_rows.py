"""What methods say of several readouts of one text: the rows of each layer and of the model, from one capture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from mambascope.attribution import WHOLE_MODEL
from mambascope.evaluate.forms import find_form
from mambascope.evaluate.task import NO_LAYER
from mambascope.explanation.runner import score
from mambascope.methods.reference_code import first_reference_layer
from mambascope.readouts import Readout
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
        methods: Names of methods, with their form if it is not the published one (`rollout:reference-code`).
        readouts: What is explained, with the positions where it is read.
        trace: A capture of these inputs, if there is one.
    """
    trace = capture(model, **inputs) if trace is None else trace
    for name in methods:
        method, variant = find_form(name)
        layers = range(
            first_reference_layer(len(trace.layers)) if variant == "reference-code" else 0, len(trace.layers)
        )
        rows = score(trace, method, readouts, layers=layers, variant=variant)
        if rows.layers != (WHOLE_MODEL,):
            numbers = map(int, rows.layers)
            yield from (ScoredRows(name, number, one) for number, one in zip(numbers, rows.scores, strict=True))
        yield ScoredRows(name, NO_LAYER, rows.whole)
