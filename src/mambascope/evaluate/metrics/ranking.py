"""How well scores rank the sources: against the gold sources of each row, or against other scores.

A row holds one target's scores over its sources. Some sources are gold, the right ones; the rest are others, or not
candidates at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError


@dataclass(frozen=True)
class GoldRows:
    """Rows of scores over sources, each of which is gold, another candidate, or no candidate.

    Attributes:
        scores: float64; zero where a source is no candidate.
        gold: The candidates that are gold.
        others: The candidates that are not.
    """

    scores: Float[Tensor, "*rows n"]
    gold: Bool[Tensor, "*rows n"]
    others: Bool[Tensor, "*rows n"]

    __repr__ = brief

    @property
    def golds(self) -> Int[Tensor, "*rows"]:
        """How many gold sources each row has."""
        return self.gold.sum(dim=-1)

    def below(self, which: Bool[Tensor, "*rows n"]) -> Int[Tensor, "*rows n"]:
        """Return, for every source, how many of the sources `which` score lower."""
        return torch.searchsorted(self._sorted(which), self.scores)

    def up_to(self, which: Bool[Tensor, "*rows n"]) -> Int[Tensor, "*rows n"]:
        """Return, for every source, how many of the sources `which` score the same or lower."""
        return torch.searchsorted(self._sorted(which), self.scores, right=True)

    def mean_over_gold(self, values: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
        """Return the mean of values over each row's gold sources; NaN in rows that have none."""
        return torch.where(self.gold, values, 0).sum(dim=-1) / self.golds

    def _sorted(self, which: Bool[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        return torch.where(which, self.scores, torch.inf).sort(dim=-1).values


def gold_rows(
    scores: Num[Tensor, "*rows n"], gold: Bool[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None
) -> GoldRows:
    """Return checked rows, ready for the metrics.

    Args:
        scores: Larger for sources that matter more to the target; the last axis is the source.
        gold: Which sources are right, in the shape of `scores` or broadcast to it.
        valid: Which sources are candidates at all (no padding, no future, only the source side of a translation), in
            such a shape too; None for all. The scores of the rest may be anything, NaN included.

    Raises:
        InputError: if the shapes do not fit, or a candidate's score is not finite.
    """
    try:
        gold = gold.broadcast_to(scores.shape)
        valid = torch.ones_like(gold) if valid is None else valid.broadcast_to(scores.shape)
    except RuntimeError as error:
        shapes = [tuple(mask.shape) for mask in (gold, valid) if mask is not None]
        raise InputError(f"masks of shapes {shapes} do not fit scores of shape {tuple(scores.shape)}") from error
    scores = torch.where(valid, scores.double(), 0).contiguous()
    if not scores.isfinite().all():
        raise InputError("a score of a valid source is NaN or infinite; leave such sources out by `valid`")
    return GoldRows(scores, gold & valid, ~gold & valid)


def roc_auc(
    scores: Num[Tensor, "*rows n"], gold: Bool[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the share of (gold, other) pairs in which gold scores higher; a tie counts as a half.

    That is the area under the ROC curve (Mann & Whitney's U over the number of pairs), the same as scikit-learn's
    `roc_auc_score` for one row at a time; here all rows are computed at once.

    Args:
        scores, gold, valid: See `gold_rows`.

    Returns:
        float64, from 0 to 1. NaN in rows whose candidates are all gold or all others, where there is nothing to rank;
        a mean over rows leaves them out (`mean_interval` counts them).

    Raises:
        InputError: see `gold_rows`.
    """
    rows = gold_rows(scores, gold, valid)
    beaten = (rows.below(rows.others) + rows.up_to(rows.others)) / 2
    return rows.mean_over_gold(beaten.double()) / rows.others.sum(dim=-1)


def average_precision(
    scores: Num[Tensor, "*rows n"], gold: Bool[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the mean over its gold sources of the precision among all that score as high or higher.

    That is Σ (recall_n - recall_{n-1}) precision_n over distinct scores, without interpolation, the same as
    scikit-learn's `average_precision_score` for one row at a time; here all rows are computed at once.

    Args:
        scores, gold, valid: See `gold_rows`.

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


def recall_at_k(
    scores: Num[Tensor, "*rows n"],
    gold: Bool[Tensor, "..."],
    valid: Bool[Tensor, "..."] | None = None,
    k: int | None = None,
) -> Float[Tensor, "*rows"]:
    """Return, for each row, the share of its gold sources that are among the K highest.

    Sources tied at the K-th place share the places that are left, so the result is the mean over all ways to break the
    tie: no position is favoured, and scores that are all equal get what chance would give.

    Args:
        scores, gold, valid: See `gold_rows`.
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
