"""How far relevance is from adding up to what it explains."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError


def conservation_error(value: Float[Tensor, "*texts"], relevance: Float[Tensor, "..."]) -> Float[Tensor, "*texts"]:
    """Return |f - ΣR| / |f| of each text, in float64 (the conservation test of Jafari et al., arXiv 2406.07592).

    Args:
        value: f, the number explained.
        relevance: R, the scores of one text's sources along the last axis.

    Returns:
        0 if relevance is conserved; if f is 0, infinite, or NaN if ΣR is 0 too.

    Raises:
        InputError: if there is not one row of relevance per value, or a number is not finite.
    """
    if relevance.shape[:-1] != value.shape or not relevance.ndim:
        raise InputError(
            f"values of shape {tuple(value.shape)} need one row of relevance each, found {tuple(relevance.shape)}"
        )
    value, total = value.double(), relevance.double().sum(dim=-1)
    if not torch.isfinite(torch.stack([value, total])).all():
        raise InputError("a value or a score is NaN or infinite, so relevance cannot be summed")
    return (value - total).abs() / value.abs()
