"""The pointing game: is the pixel that scores highest on the object?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError


def pointing_game(scores: Float[Tensor, "H W"], mask: Bool[Tensor, "h w"]) -> float:
    """Return 1 if the map's maximum lies in the mask, else 0 (Zhang et al., arXiv 1608.00507, without their margin).

    Where several pixels share the maximum, the share of them that lie in the mask: what a fair draw among them gives.

    Raises:
        InputError: if the shapes differ or a score is not finite.
    """
    if scores.shape != mask.shape:
        raise InputError(f"a map of {tuple(scores.shape)} pixels does not fit a mask of {tuple(mask.shape)}")
    if not scores.isfinite().all():
        raise InputError("a pixel's score is NaN or infinite, so that there is no maximum")
    return float(mask[scores == scores.max()].double().mean())
