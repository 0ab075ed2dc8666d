"""Pictures as they lie on disk: JPEG and PNG files, alone or in a tar archive."""

from __future__ import annotations

import importlib
import io
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mambascope.errors import InputError


def archived_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of every file of a tar archive, packed or not, in its order.

    Raises:
        InputError: naming the archive, if it cannot be read.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name, file.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        raise InputError(f"{archive} could not be read: {error}") from error


def decoded(content: bytes, name: str, mode: str = "RGB") -> np.ndarray:
    """Return a picture as uint8, (H, W, 3), or (H, W) of values as they are stored for the mode `L`.

    Args:
        content: The file.
        name: What to call it in an error.
        mode: `RGB`, or `L` for files of one channel: grey levels or numbers of classes.

    Raises:
        InputError: if Pillow is not installed, or the file is no picture or not of one channel where `L` is asked for.
    """
    try:
        image = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise InputError(
            "pictures are read by pillow, which is not installed: pip install mambascope[vision]"
        ) from error
    try:
        with image.open(io.BytesIO(content)) as picture:
            if mode == "RGB":
                picture = picture.convert("RGB")
            elif picture.mode not in ("L", "P"):
                raise InputError(f"{name} holds {picture.mode} pixels where one channel of 8 bits is expected")
            return np.array(picture, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name} could not be read as an image: {error}") from error
