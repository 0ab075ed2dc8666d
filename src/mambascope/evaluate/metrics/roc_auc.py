"""The area under the ROC curve: how likely a gold source scores above one that is not."""

from __future__ import annotations

from jaxtyping import Bool, Float, Num
from torch import Tensor

from mambascope.evaluate.metrics.gold_rows import gold_rows


def roc_auc(
    scores: Num[Tensor, "*rows n"], gold: Bool[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the share of (gold, other) pairs of sources in which gold scores higher; a tie is a half.

    That is the area under the ROC curve (Mann & Whitney's U over the number of pairs), as scikit-learn's
    `roc_auc_score` gives it one row at a time; here all rows are counted at once.

    Args:
        scores, gold, valid: As `gold_rows` takes them.

    Returns:
        float64, from 0 to 1. NaN in rows whose valid sources are all gold or none of them: they order nothing, and a
        mean over rows leaves them out (`mean_interval` says how many).

    Raises:
        InputError: see `gold_rows`.
    """
    rows = gold_rows(scores, gold, valid)
    beaten = (rows.below(rows.others) + rows.up_to(rows.others)) / 2
    return rows.mean_over_gold(beaten.double()) / rows.others.sum(dim=-1)
