"""Scores of patches as colours over the picture: blue adds, orange takes away, on the picture in pale grey.

The picture beneath loses its colours, since a blue sky or an orange cat would read as scores, and its darkest shades,
since every score darkens what it lies on, like ink. So the order of scores survives a black-and-white printer, the
picture stays visible everywhere, and where it is white the colours are those of the scale.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.errors import InputError
from mambascope.grid import Grid
from mambascope.show.check import require_picture
from mambascope.show.palette import colormap

#: The shorter side, in pixels, to which small pictures are enlarged before scores are laid over them.
SMALLEST_SIDE = 320
#: How bright black becomes beneath the scores, from 0 to 1.
PALEST = 0.6
#: Unsigned scores whose smallest is above this share of the largest are coloured from the smallest on, not from zero.
FLOOR = 0.25
#: The weight of each colour in the brightness of a pixel (Rec. 601).
BRIGHTNESS = np.array([0.299, 0.587, 0.114])


def upsampled(scores: Float[Tensor, "rows columns"], grid: Grid, height: int, width: int) -> Float[np.ndarray, "h w"]:
    """Return scores of patches at every pixel of a picture, bilinear between the patches' centres.

    Beyond the outermost centres, the nearest patches' scores continue.

    Args:
        scores: What `Attribution.picture` returns.
        grid: Where the patches lie; they overlap where the stride is smaller than a patch.
        height: The height of the picture that the patches lie on, in its own pixels.
        width: Its width.
    """
    values = scores.double().numpy()
    for axis, (pixels, covered) in enumerate(zip((height, width), grid.size, strict=True)):
        at = ((np.arange(pixels) + 0.5) * covered / pixels - grid.patch / 2) / grid.stride
        at = at.clip(0, values.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(values.shape[axis] - 2, 0))
        high = np.minimum(low + 1, values.shape[axis] - 1)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def pale(image: UInt8[Tensor, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Return the picture in pale grey, from 0 to 1."""
    grey = image.numpy() / 255 @ BRIGHTNESS
    return np.repeat((PALEST + (1 - PALEST) * grey)[..., None], 3, axis=2)


def ends(scores: Float[Tensor, "rows columns"], signed: bool, stretched: bool = False) -> tuple[float, float]:
    """Return the score that is drawn without colour and the one that is drawn in full colour.

    Zero has no colour. But where even the smallest of unsigned scores is large, as in raw attention, which has no true
    zero, all patches would look equally deep; there the scale begins at the smallest.

    Args:
        scores: The patches' scores.
        signed: Whether scores may be negative.
        stretched: Begin unsigned scales at the smallest score whatever it is, as papers draw their maps.
    """
    largest = float(scores.abs().max())
    smallest = 0.0 if signed else float(scores.min())
    return (smallest if stretched or smallest > FLOOR * largest else 0.0) if smallest < largest else 0.0, largest


def laid_over(
    ground: Float[np.ndarray, "h w 3"],
    scores: Float[np.ndarray, "h w"],
    largest: float,
    signed: bool,
    smallest: float = 0.0,
) -> Float[np.ndarray, "h w 3"]:
    """Return a picture multiplied by the colours of its scores: white for no score, deeper for larger ones.

    The depth follows the square root of the score's share of the largest, as everywhere in this package.

    Args:
        ground: The picture, from 0 to 1.
        scores: The score at every pixel.
        largest: The absolute score that is drawn in full colour.
        signed: Whether scores may be negative.
        smallest: The score that is drawn without colour.
    """
    share = np.clip((scores - smallest) / ((largest - smallest) or 1.0), -1 if signed else 0, 1)
    shade = np.sign(share) * np.sqrt(np.abs(share))
    return ground * colormap(signed)(0.5 + 0.5 * shade if signed else shade)[..., :3]


def enlarged(image: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "H W 3"]:
    """Return a small picture with every pixel repeated until its shorter side has `SMALLEST_SIDE` pixels or more."""
    factor = -(-SMALLEST_SIDE // min(image.shape[:2]))
    return image.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)


def ground_of(image: UInt8[Tensor, "h w 3"] | None, grid: Grid) -> UInt8[Tensor, "H W 3"]:
    """Return the picture to draw on: the result's own, enlarged, or if it has none, plain white of its shape."""
    if image is not None:
        return enlarged(image)
    return enlarged(torch.full((*grid.size, 3), 255, dtype=torch.uint8))


def overlay(
    attribution: Attribution,
    position: int | None = None,
    layer: int | str | None = None,
    stretched: bool = False,
) -> Float[np.ndarray, "h w 3"]:
    """Return a result's picture in pale grey with the scores of one target over it, from 0 to 1.

    Args:
        attribution: A result of a picture.
        position: The target; by default the one in focus.
        layer: One layer; by default all together.
        stretched: As in `ends`; if set, scores count as unsigned where none is negative.
    """
    grid = require_picture(attribution)
    image, scores = ground_of(attribution.image, grid), attribution.picture(position, layer)
    signed = bool((scores < 0).any()) if stretched else attribution.signed
    smallest, largest = ends(scores, signed, stretched)
    return laid_over(pale(image), upsampled(scores, grid, *image.shape[:2]), largest, signed, smallest)


def read_pixels(attribution: Attribution) -> Float[Tensor, "rows columns"]:
    """Return the scores of the pixels that patches cover; raises InputError if the method scores only patches."""
    grid = require_picture(attribution)
    if attribution.pixels is None:
        raise InputError(f"{attribution.method} scores patches, not pixels")
    return attribution.pixels[: grid.size[0], : grid.size[1]]


def pixel_overlay(attribution: Attribution) -> Float[np.ndarray, "h w 3"]:
    """Return a result's picture in pale grey with the scores of its pixels over it, from 0 to 1."""
    scores = read_pixels(attribution)
    image = ground_of(attribution.image, require_picture(attribution))
    rows, columns = scores.shape
    spread = upsampled(scores, Grid(rows, columns, None, patch=1, stride=1), *image.shape[:2])
    return laid_over(pale(image), spread, float(scores.abs().max()), attribution.signed)
