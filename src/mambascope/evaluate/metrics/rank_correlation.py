"""Spearman's rank correlation: how far two scores put the same sources in the same order."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError


def rank_correlation(first: Float[Tensor, " n"], second: Float[Tensor, " m"]) -> float:
    """Return Spearman's ρ: Pearson's correlation of the ranks, ties sharing the mean of theirs.

    Returns:
        From -1 to 1; NaN where all values of one score are alike, which have no order.

    Raises:
        InputError: if the scores are of different lengths, of fewer than two sources, or not finite.
    """
    if first.shape != second.shape or first.numel() < 2:
        raise InputError(f"a rank correlation needs two equally long scores, found {len(first)} and {len(second)}")
    if not (first.isfinite().all() and second.isfinite().all()):
        raise InputError("a rank correlation needs finite scores, and some are NaN or infinite")
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    spread = a.norm() * b.norm()
    return float(a @ b / spread) if spread > 0 else float("nan")


def ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the rank of each value, the smallest 1, in float64; ties share the mean of their ranks."""
    _, group, size = values.unique(return_inverse=True, return_counts=True)
    last = size.cumsum(0).double()
    return (last - (size.double() - 1) / 2)[group]
