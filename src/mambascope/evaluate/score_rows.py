"""The scores of methods for several readouts of one text, of each layer and of the whole model, from one capture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mambascope.attribution import WHOLE_MODEL
from mambascope.evaluate.metrics.ranking import average_precision, recall_at_k, roc_auc
from mambascope.evaluate.task import NO_LAYER, Row
from mambascope.evaluate.variants import find_variant
from mambascope.explanation.runner import score
from mambascope.methods.reference_code import first_reference_layer
from mambascope.readouts import Readout
from mambascope.trace import Trace, capture

#: The metrics of rows whose gold sources are known.
RANKING = {"roc_auc": roc_auc, "average_precision": average_precision, "recall_at_k": recall_at_k}


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
    """Yield every method's rows for the readouts, for each layer (if it scores layers) and for the whole model.

    A readout that is read from several positions, such as a class read from the mean of all, gets the mean of their
    rows. For methods that score layers, the whole model's rows are the mean over layers, as in `explain`. Signed scores
    keep their sign.

    Args:
        model: A stock model.
        inputs: One text.
        methods: Names of methods, with the variant unless it is the published one (`rollout:reference-code`).
        readouts: The numbers to explain, with the positions where they are read.
        trace: A trace of these inputs, if there is one already.
    """
    trace = capture(model, **inputs) if trace is None else trace
    for name in methods:
        method, variant = find_variant(name)
        layers = range(
            first_reference_layer(len(trace.layers)) if variant == "reference-code" else 0, len(trace.layers)
        )
        rows = score(trace, method, readouts, layers=layers, variant=variant)
        if rows.layers != (WHOLE_MODEL,):
            numbers = map(int, rows.layers)
            yield from (ScoredRows(name, number, one) for number, one in zip(numbers, rows.scores, strict=True))
        yield ScoredRows(name, NO_LAYER, rows.whole)


def ranking_rows(scored: ScoredRows, gold: Bool[Tensor, "T L"], valid: Bool[Tensor, "T L"]) -> list[Row]:
    """Return the metrics of `RANKING` for one method in one layer, averaged over the targets.

    Args:
        scored: The scores; sources are ranked by the size of their scores.
        gold: The right sources of each target.
        valid: The sources that are candidates.
    """
    sizes = scored.rows.abs()
    return [
        Row(scored.method, name, float(metric(sizes, gold, valid).nanmean()), scored.layer)
        for name, metric in RANKING.items()
    ]
