"""A map as a segmentation: what scores above the map's own mean is taken for the object (Chefer et al. 2021, 4.2).

A picture gives counts; counts of pictures add up; pixel accuracy and intersection over union are those of the summed
counts, as in the code released with arXiv 2012.09838, never a mean of pictures' rates. The average precision is of each
picture, and its mean is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.evaluate.metrics.alignment_error_rate import Counts, share
from mambascope.evaluate.metrics.average_precision import average_precision


@dataclass(frozen=True)
class SegmentationCounts:
    """What the rates are made of; `sum(counts, SegmentationCounts())` is a set of pictures.

    Attributes:
        pixels: Pixels that are the object or are not.
        correct: Pixels on whose side the map is right.
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
        """Return the counts of both together."""
        return SegmentationCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels on whose side the map is right; NaN where there is none."""
        return float(share(self.correct, self.pixels))

    @property
    def mean_iou(self) -> float:
        """The mean over object and rest of intersection over union."""
        return float(mean_iou(self.object_both, self.object_either, self.rest_both, self.rest_either))

    def rows(self) -> dict[str, int]:
        """Return the counts under their names in a table of results, from which a set's rates are derived."""
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
    """Return the mean of the two classes' intersections over unions, from counts or arrays of them."""
    return np.asarray((share(object_both, object_either) + share(rest_both, rest_either)) / 2)


def released_average_precision(scores: Float[Tensor, "H W"], mask: Bool[Tensor, "h w"]) -> float:
    """Return the average precision that the code released with arXiv 2012.09838 reports as its mAP.

    Every pixel is listed twice, as object with the map's score m (from 0 to 1) and as rest with 1 - m, and one list of
    both is judged: the easy rest lifts it far above the average precision of the object alone. For comparison with
    published figures only. A map that is all alike gets what chance gives.

    Raises:
        InputError: see `segmentation_counts`.
    """
    _check(scores, mask)
    low, high = scores.double().min(), scores.double().max()
    scaled = (scores.double() - low) / (high - low) if high > low else torch.zeros_like(scores, dtype=torch.float64)
    rest = 1 - scaled if high > low else scaled
    both = torch.cat([rest.flatten(), scaled.flatten()])
    return float(average_precision(both, torch.cat([~mask.flatten(), mask.flatten()])))


def _check(scores: Tensor, mask: Tensor) -> None:
    if scores.shape != mask.shape:
        raise InputError(f"a map of {tuple(scores.shape)} pixels does not fit a mask of {tuple(mask.shape)}")
    if not scores.isfinite().all():
        raise InputError("a pixel's score is NaN or infinite")
