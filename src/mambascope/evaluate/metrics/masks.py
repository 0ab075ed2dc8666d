"""A map over a picture against the mask of an object: segmentation, mask AUC, the pointing game.

As a segmentation (Chefer et al. 2021, arXiv 2012.09838, section 4.2), the pixels that score above the map's own mean
are taken for the object. Each picture gives counts; pixel accuracy and intersection over union are computed from the
counts' sums over all pictures, as in the code released with that paper, and are not means over pictures. Average
precision is computed per picture and averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.evaluate.metrics.alignment_error_rate import Counts, share
from mambascope.evaluate.metrics.ranking import average_precision, roc_auc


@dataclass(frozen=True)
class SegmentationCounts:
    """The counts behind pixel accuracy and IoU; `sum(counts, SegmentationCounts())` adds up pictures.

    Attributes:
        pixels: Pixels counted.
        correct: Pixels that the map puts on the right side.
        object_both: Pixels of the object that the map takes for it.
        object_either: Pixels that are the object or are taken for it.
        rest_both: Pixels of the rest that the map takes for the rest.
        rest_either: Pixels that are the rest or are taken for it.
    """

    pixels: int = 0
    correct: int = 0
    object_both: int = 0
    object_either: int = 0
    rest_both: int = 0
    rest_either: int = 0

    def __add__(self, other: SegmentationCounts) -> SegmentationCounts:
        """Return the sums of both."""
        return SegmentationCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels that the map puts on the right side; NaN if there are none."""
        return float(share(self.correct, self.pixels))

    @property
    def mean_iou(self) -> float:
        """The mean over object and rest of intersection over union."""
        return float(mean_iou(self.object_both, self.object_either, self.rest_both, self.rest_either))

    def rows(self) -> dict[str, int]:
        """Return the counts by their names in a table of results."""
        return {f"segmentation_{f.name}": getattr(self, f.name) for f in fields(self)}


def segmentation_counts(
    scores: Float[Tensor, "H W"], mask: Bool[Tensor, "h w"], valid: Bool[Tensor, "..."] | None = None
) -> SegmentationCounts:
    """Return the counts of one picture.

    Args:
        scores: A score for every pixel; those above the mean of all are taken for the object.
        mask: The object.
        valid: The pixels that count; None for all.

    Raises:
        InputError: if the shapes differ or a score is not finite.
    """
    _check(scores, mask)
    valid = torch.ones_like(mask) if valid is None else valid
    taken = scores > scores.double().mean().to(scores.dtype)
    return SegmentationCounts(
        pixels=int(valid.sum()),
        correct=int(((taken == mask) & valid).sum()),
        object_both=int((taken & mask & valid).sum()),
        object_either=int(((taken | mask) & valid).sum()),
        rest_both=int((~taken & ~mask & valid).sum()),
        rest_either=int(((~taken | ~mask) & valid).sum()),
    )


def mean_iou(object_both: Counts, object_either: Counts, rest_both: Counts, rest_either: Counts) -> np.ndarray:
    """Return the mean of the two classes' intersections over unions, from counts or arrays of counts."""
    return np.asarray((share(object_both, object_either) + share(rest_both, rest_either)) / 2)


def released_average_precision(scores: Float[Tensor, "H W"], mask: Bool[Tensor, "h w"]) -> float:
    """Return the average precision that the code released with arXiv 2012.09838 reports as its mAP.

    Every pixel is listed twice, as object with the map's score m (scaled from 0 to 1) and as rest with 1 - m, and both
    go into one list: the rest, which is easy, lifts the value far above the average precision of the object alone. Use
    it only to compare with published figures. A map that is the same everywhere gets what chance gives.

    Raises:
        InputError: see `segmentation_counts`.
    """
    _check(scores, mask)
    low, high = scores.double().min(), scores.double().max()
    scaled = (scores.double() - low) / (high - low) if high > low else torch.zeros_like(scores, dtype=torch.float64)
    rest = 1 - scaled if high > low else scaled
    both = torch.cat([rest.flatten(), scaled.flatten()])
    return float(average_precision(both, torch.cat([~mask.flatten(), mask.flatten()])))


def mask_auc(
    scores: Float[Tensor, "H W"], mask: Bool[Tensor, "h w"], others: Bool[Tensor, "..."] | None = None
) -> float:
    """Return the area under the ROC curve of the object's pixels against other pixels; 0.5 is chance.

    Against all other pixels it measures whether the map finds the object; against the pixels of other objects, whether
    it finds *this* one: a map that marks every object equally gets 0.5.

    Args:
        scores: A score for every pixel.
        mask: The object.
        others: The pixels to compare with; None for all that are not the object.

    Returns:
        From 0 to 1; NaN if the object or the others have no pixel.

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


def pointing_game(scores: Float[Tensor, "H W"], mask: Bool[Tensor, "h w"]) -> float:
    """Return 1 if the map's maximum lies in the mask, else 0 (Zhang et al., arXiv 1608.00507, without their margin).

    If several pixels share the maximum, return the share of them that lie in the mask: the mean of a fair draw.

    Raises:
        InputError: if the shapes differ or a score is not finite.
    """
    _check(scores, mask)
    return float(mask[scores == scores.max()].double().mean())


def _check(scores: Tensor, mask: Tensor) -> None:
    if scores.shape != mask.shape:
        raise InputError(f"a map of {tuple(scores.shape)} pixels does not fit a mask of {tuple(mask.shape)}")
    if not scores.isfinite().all():
        raise InputError("a pixel's score is NaN or infinite")
