"""Rows of scores with their gold sources: checked once, and counted as every ranking metric counts them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError


@dataclass(frozen=True)
class GoldRows:
    """Rows of scores over sources, some of which are gold, the others not, and the rest no candidates.

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
        """Return, for every source, how many of the sources `which` score less than it does."""
        return torch.searchsorted(self._sorted(which), self.scores)

    def up_to(self, which: Bool[Tensor, "*rows n"]) -> Int[Tensor, "*rows n"]:
        """Return, for every source, how many of the sources `which` score no more than it does."""
        return torch.searchsorted(self._sorted(which), self.scores, right=True)

    def mean_over_gold(self, values: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
        """Return the mean of values over each row's gold sources; NaN in rows that have none."""
        return torch.where(self.gold, values, 0).sum(dim=-1) / self.golds

    def _sorted(self, which: Bool[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        return torch.where(which, self.scores, torch.inf).sort(dim=-1).values


def gold_rows(
    scores: Num[Tensor, "*rows n"], gold: Bool[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None
) -> GoldRows:
    """Return rows ready to be counted.

    Args:
        scores: Larger for the sources that a target is said to draw from; the last axis is the source.
        gold: Which sources are right, as `scores` or broadcast to it.
        valid: Which sources are candidates at all (no padding, no future, the source side of a translation), likewise;
            None for all. Scores of the rest may be anything, NaN included.

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
