"""How far a map scores the pixels of one object above others: those of the whole picture, or of other objects in it."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.evaluate.metrics.roc_auc import roc_auc


def mask_auc(
    scores: Float[Tensor, "H W"], mask: Bool[Tensor, "h w"], others: Bool[Tensor, "..."] | None = None
) -> float:
    """Return the area under the ROC curve of the object's pixels against others; 0.5 is chance.

    Against all others it asks whether the map finds the object; against the pixels of other objects, whether it finds
    *this* one: a map that marks every object alike gets 0.5.

    Args:
        scores: A score for every pixel.
        mask: The object.
        others: The pixels it is compared with; None for all that are not the object.

    Returns:
        From 0 to 1; NaN where the object or the others have no pixel.

    Raises:
        InputError: if the shapes differ, the others overlap the object, or a score that counts is not finite.
    """
    others = ~mask if others is None else others
    if not scores.shape == mask.shape == others.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (scores, mask, others))
        raise InputError(f"the map, the mask and the others must be of one shape, found {shapes}")
    if (mask & others).any():
        raise InputError("a pixel cannot be of the object and of the others")
    return float(roc_auc(scores.flatten(), mask.flatten(), (mask | others).flatten()))
