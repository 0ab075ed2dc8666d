"""Pictures: read from JPEG and PNG files and tar archives, resized, and normalised for a model."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.evaluate.data.folder import DAMAGED_ARCHIVE
from mambascope.inputs.picture_forms import in_rgb, pillow
from mambascope.loading.json_files import one_line

#: Mean and standard deviation, the same for every channel, that normalise pixel values from 0 to 1. A normalised pixel
#: that is set to 0 is this grey.
MEAN, STD = 0.5, 0.5


@dataclass(frozen=True)
class Pictures:
    """Pictures in memory, each of one class.

    Attributes:
        pixels: All pictures.
        labels: The class number of each.
        classes: The names of the classes.
    """

    pixels: UInt8[np.ndarray, "n H W 3"]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]

    __repr__ = brief


def normalised(pixels: UInt8[np.ndarray, "*n H W 3"]) -> Float[Tensor, "*n 3 H W"]:
    """Return pixels in the form that models take: channels first, float32, from -1 to 1."""
    channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3)))
    return (channels_first.float() / 255 - MEAN) / STD


def resized(pixels: UInt8[np.ndarray, "n H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "n h w 3"]:
    """Return pictures resized to (h, w), without aliasing."""
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    small = F.interpolate(channels_first, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())


def archived_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of every file of a tar archive, compressed or not, in its order.

    Raises:
        InputError: naming the archive, if it cannot be read.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name, file.read()
    except DAMAGED_ARCHIVE as error:
        raise InputError(f"{archive} could not be read: {one_line(error)}") from error


def decoded(content: bytes, name: str, mode: str = "RGB") -> np.ndarray:
    """Return a picture as uint8, (H, W, 3), prepared as models get it; with the mode `L`, its stored values, (H, W).

    Args:
        content: The file's content.
        name: The file's name in error messages.
        mode: `RGB`, or `L` for files of one channel, which holds grey levels or class numbers.

    Raises:
        InputError: if Pillow is not installed, the file is no picture, or for `L` it has more than one channel.
    """
    if mode == "RGB":
        return np.array(in_rgb(content, name)[0])
    try:
        with pillow().open(io.BytesIO(content)) as picture:
            if picture.mode not in ("L", "P"):
                raise InputError(f"{name} holds {picture.mode} pixels where one channel of 8 bits is expected")
            return np.array(picture, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name} could not be read as an image: {one_line(error)}") from error
