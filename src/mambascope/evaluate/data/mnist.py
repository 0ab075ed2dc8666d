"""MNIST's handwritten digits (LeCun, Cortes & Burges), in their own format: gzipped idx files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from mambascope.errors import InputError
from mambascope.evaluate.data.folder import DAMAGED_ARCHIVE
from mambascope.loading.json_files import one_line

SIDE = 28
#: The first four bytes of an idx file: two zeros, a code for unsigned bytes, and the number of axes.
IMAGES, LABELS = 0x803, 0x801


def read_mnist(images: Path, labels: Path) -> tuple[UInt8[np.ndarray, "n 28 28"], Int[np.ndarray, " n"]]:
    """Return the pictures of the digits, ink 255 on paper 0, and their labels.

    Raises:
        InputError: naming the file, if one cannot be read or is not an idx file of this kind, or the two do not match.
    """
    digits, classes = _idx(images, IMAGES), _idx(labels, LABELS)
    if digits.shape[1:] != (SIDE, SIDE):
        raise InputError(f"{images} holds pictures of {digits.shape[2]}×{digits.shape[1]} pixels, not {SIDE}×{SIDE}")
    if len(digits) != len(classes):
        raise InputError(f"{images} holds {len(digits)} digits and {labels} has labels for {len(classes)}")
    if len(classes) and classes.max() > 9:
        raise InputError(f"{labels} has a label {classes.max()}; digits are 0 to 9")
    return digits, classes.astype(np.int64)


def _idx(path: Path, magic: int) -> np.ndarray:
    try:
        with gzip.open(path) as file:
            content = file.read()
    except DAMAGED_ARCHIVE as error:
        raise InputError(f"{path} could not be read: {one_line(error)}") from error
    axes = magic & 0xFF
    header = 4 * (1 + axes)
    if len(content) < header or struct.unpack_from(">I", content)[0] != magic:
        raise InputError(f"{path} is not an idx file of unsigned bytes with {axes} axes: it begins {content[:4].hex()}")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    if len(content) - header != np.prod(shape):
        raise InputError(f"{path} says that it holds {np.prod(shape)} bytes, and holds {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
