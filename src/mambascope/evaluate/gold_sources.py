"""The verdict on rows whose right sources are known: AUC, average precision and recall at K."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from mambascope.evaluate.metrics.average_precision import average_precision
from mambascope.evaluate.metrics.recall_at_k import recall_at_k
from mambascope.evaluate.metrics.roc_auc import roc_auc
from mambascope.evaluate.score_rows import ScoredRows
from mambascope.evaluate.task import Metric, Row

#: What is reported; sources are ordered by the size of their scores.
METRICS = (
    Metric("roc_auc", title="area under the ROC curve of each row, averaged"),
    Metric("average_precision", title="average precision of each row, averaged"),
    Metric("recall_at_k", title="share of the gold sources among the K highest, K as many as there are gold ones"),
)


def judged(scored: ScoredRows, gold: Bool[Tensor, "T L"], valid: Bool[Tensor, "T L"]) -> list[Row]:
    """Return the three metrics of one method in one layer, averaged over the targets.

    Args:
        scored: The scores, whose size orders the sources.
        gold: The right sources of each target.
        valid: The sources that are candidates.
    """
    sizes = scored.rows.abs()
    return [
        Row(scored.method, name, float(metric(sizes, gold, valid).nanmean()), scored.layer)
        for name, metric in (
            ("roc_auc", roc_auc),
            ("average_precision", average_precision),
            ("recall_at_k", recall_at_k),
        )
    ]
