"""Pictures with their classes in memory, and how they are put to a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mambascope.brief import brief

#: Mean and standard deviation of every channel, of values from 0 to 1, by which pixels are normalised: a pixel set to
#: nothing afterwards is this grey.
MEAN, STD = 0.5, 0.5


@dataclass(frozen=True)
class Pictures:
    """Pictures of one class each.

    Attributes:
        pixels: All pictures.
        labels: The number of each one's class.
        classes: The names of the classes.
    """

    pixels: UInt8[np.ndarray, "n H W 3"]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]

    __repr__ = brief


def normalised(pixels: UInt8[np.ndarray, "*n H W 3"]) -> Float[Tensor, "*n 3 H W"]:
    """Return pixels as models take them: channels first, float32, from -1 to 1."""
    channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3)))
    return (channels_first.float() / 255 - MEAN) / STD


def resized(pixels: UInt8[np.ndarray, "n H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "n h w 3"]:
    """Return pictures at another size (h, w), without aliasing."""
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    small = F.interpolate(channels_first, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())
