"""Average precision: how clean the list of sources is, read down to each gold one."""

from __future__ import annotations

from jaxtyping import Bool, Float, Num
from torch import Tensor

from mambascope.evaluate.metrics.gold_rows import gold_rows


def average_precision(
    scores: Num[Tensor, "*rows n"], gold: Bool[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the mean over its gold sources of the precision among all that score as high or higher.

    That is Σ (recall_n - recall_{n-1}) precision_n over distinct scores, with no interpolation, as scikit-learn's
    `average_precision_score` gives it one row at a time; here all rows are counted at once.

    Args:
        scores, gold, valid: As `gold_rows` takes them.

    Returns:
        float64, above 0 and at most 1; NaN in rows without a gold source.

    Raises:
        InputError: see `gold_rows`.
    """
    rows = gold_rows(scores, gold, valid)
    gold_at_least = rows.golds[..., None] - rows.below(rows.gold)
    others_at_least = rows.others.sum(dim=-1, keepdim=True) - rows.below(rows.others)
    listed = (gold_at_least + others_at_least).clamp(min=1)  # 0 only for sources that are no candidates
    return rows.mean_over_gold(gold_at_least.double() / listed)
