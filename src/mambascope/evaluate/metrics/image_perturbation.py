"""Image perturbation: does the answer survive when the pixels that a map points at are erased, or all the others?

Chefer, Gur & Wolf 2021 (arXiv 2012.09838, section 4), and Ali, Zimerman & Wolf (arXiv 2403.01590, section 5.2): a tenth
to nine tenths of the pixels are erased, most relevant first (*positive* perturbation: with a good map the answer
changes early) or least relevant first (*negative*: it stays), and the area under the accuracy curve is reported. The
mean of the pictures' areas is the area under the mean curve.

`kept_patches` erases whole patches, for `perturbation_curves`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.evaluate.metrics.perturbation_curve import area

#: The shares of pixels erased.
NINE_TENTHS = tuple(step / 10 for step in range(1, 10))
#: Takes pictures and returns how far each still gets the answer: 1 or 0, or a probability.
Holds = Callable[[Float[Tensor, "b 3 H W"]], Num[Tensor, " b"]]


@dataclass(frozen=True)
class ImagePerturbation:
    """Both curves of one picture.

    Attributes:
        fractions: The share of pixels erased at each step.
        positive: Whether the answer stays, with the most relevant pixels erased first.
        negative: The same, with the least relevant erased first.
    """

    fractions: Float[Tensor, " steps"]
    positive: Float[Tensor, " steps"]
    negative: Float[Tensor, " steps"]

    __repr__ = brief

    def rows(self, variant: str = "") -> dict[str, float]:
        """Return the areas by the trapezoid rule, by their names in a table of results.

        From a tenth to nine tenths, an area lies between 0 and 0.8.

        Args:
            variant: Which answer was watched; it is added after a colon.
        """
        suffix = f":{variant}" if variant else ""
        return {
            f"perturbation_positive_area{suffix}": area(self.fractions, self.positive),
            f"perturbation_negative_area{suffix}": area(self.fractions, self.negative),
        }


def image_perturbation(
    scores: Float[Tensor, "H W"],
    pixels: Float[Tensor, "3 h w"],
    holds: Holds,
    *,
    fractions: Sequence[float] = NINE_TENTHS,
    fill: float = 0.0,
) -> ImagePerturbation:
    """Return whether a picture keeps its answer as its pixels are erased in the order that a map gives.

    Args:
        scores: A score for every pixel, larger for more relevant pixels.
        pixels: The picture as the model takes it.
        holds: Whether pictures still get the answer.
        fractions: The shares of pixels to erase, rising.
        fill: The value of erased pixels; in normalised pixels, 0 is the mean colour. (The code released with Chefer et
            al. erases to black before normalising: -1 if pixels go from -1 to 1.)

    Raises:
        InputError: if the map does not fit the picture, a score or an answer is not finite, or fractions do not rise
            within 0 to 1.
    """
    pictures = [erased(scores, pixels, fractions, most_first=first, fill=fill) for first in (True, False)]
    found = holds(torch.cat(pictures))
    if found.shape != (2 * len(fractions),) or not found.isfinite().all():
        raise InputError(f"an answer must be one finite number for each of {2 * len(fractions)} pictures")
    positive, negative = found.detach().double().cpu().chunk(2)
    return ImagePerturbation(torch.tensor(fractions, dtype=torch.float64), positive, negative)


def erased(
    scores: Float[Tensor, "H W"],
    pixels: Float[Tensor, "3 h w"],
    fractions: Sequence[float],
    *,
    most_first: bool,
    fill: float = 0.0,
) -> Float[Tensor, "steps 3 h w"]:
    """Return the picture with each share of its pixels, rounded down, erased in the order that a map gives.

    Among equal scores, pixels go from top to bottom and left to right in both orders. Arguments and errors are those of
    `image_perturbation`; `most_first` says at which end to begin.
    """
    if scores.shape != pixels.shape[1:]:
        raise InputError(f"a map of {tuple(scores.shape)} pixels does not fit a picture of {tuple(pixels.shape[1:])}")
    if not scores.isfinite().all():
        raise InputError("a pixel's score is NaN or infinite, so the pixels cannot be put in order")
    steps = torch.tensor(fractions, dtype=torch.float64)
    if len(steps) < 2 or not (steps.diff() > 0).all() or steps[0] < 0 or steps[-1] > 1:
        raise InputError(f"fractions must be two or more, rising within 0 to 1, found {list(fractions)}")
    flat = scores.flatten()
    order = flat.argsort(descending=most_first, stable=True)
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order), device=order.device)
    counts = (
        (steps * len(order) + 1e-9).floor().long()
    )  # so that 0.3 of 10 pixels are 3, although 0.3 is not exact in binary
    gone = (turn < counts.to(turn.device)[:, None]).view(len(steps), 1, *scores.shape).to(pixels.device)
    return torch.where(gone, fill, pixels)


def kept_patches(
    pixels: Float[Tensor, "3 H W"], kept: Bool[Tensor, "b n"], grid: tuple[int, int], fill: float = 0.0
) -> Float[Tensor, "b 3 H W"]:
    """Return copies of a picture, each with all patches erased but those that are kept.

    Args:
        pixels: The picture as the model takes it.
        kept: For each copy, which patches to keep, row by row.
        grid: Rows and columns of patches, which divide the picture evenly.
        fill: The value of erased pixels; in normalised pixels, 0 is the mean colour.

    Raises:
        InputError: if the grid does not divide the picture, or has another number of patches than `kept`.
    """
    (rows, columns), (H, W) = grid, pixels.shape[1:]
    if H % rows or W % columns or kept.shape[1] != rows * columns:
        raise InputError(
            f"{kept.shape[1]} patches in {rows} rows and {columns} columns do not divide a picture of {H} x {W} pixels"
        )
    marks = kept.view(-1, 1, rows, columns).to(pixels.device)
    marks = marks.repeat_interleave(H // rows, dim=2).repeat_interleave(W // columns, dim=3)
    return torch.where(marks, pixels, fill)
