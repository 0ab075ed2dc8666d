"""Ranks, and how far two scores agree on them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError


def rank_correlation(first: Float[Tensor, " n"], second: Float[Tensor, " m"]) -> float:
    """Return Spearman's ρ, how far two scores put the same sources in the same order.

    It is Pearson's correlation of the ranks; tied values share the mean of their ranks.

    Returns:
        From -1 to 1; NaN if all values of one score are equal, which gives no order.

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
    """Return the rank of each value, 1 for the smallest, in float64; tied values share the mean of their ranks."""
    _, group, size = values.unique(return_inverse=True, return_counts=True)
    last = size.cumsum(0).double()
    return (last - (size.double() - 1) / 2)[group]
