"""Recall at K: how many of the gold sources are among the K that score highest."""

from __future__ import annotations

from jaxtyping import Bool, Float, Num
from torch import Tensor

from mambascope.errors import InputError
from mambascope.evaluate.metrics.gold_rows import gold_rows


def recall_at_k(
    scores: Num[Tensor, "*rows n"],
    gold: Bool[Tensor, "..."],
    valid: Bool[Tensor, "..."] | None = None,
    k: int | None = None,
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the share of its gold sources that are among the K highest.

    Sources tied at the K-th place share what places are left, so that the result is the mean over all ways to break
    the tie: no position is favoured, and scores that are all alike get what chance would give.

    Args:
        scores, gold, valid: As `gold_rows` takes them.
        k: K; None for as many as the row has gold sources.

    Returns:
        float64, from 0 to 1; NaN in rows without a gold source.

    Raises:
        InputError: if K is below 1; and see `gold_rows`.
    """
    if k is not None and k < 1:
        raise InputError(f"recall at K needs K of at least 1, found {k}")
    rows = gold_rows(scores, gold, valid)
    candidates = rows.gold | rows.others
    up_to = rows.up_to(candidates)
    above = candidates.sum(dim=-1, keepdim=True) - up_to
    tied = (up_to - rows.below(candidates)).clamp(min=1)  # 0 only for sources that are no candidates
    places = rows.golds[..., None] if k is None else k
    return rows.mean_over_gold(((places - above).double() / tied).clamp(0, 1))
