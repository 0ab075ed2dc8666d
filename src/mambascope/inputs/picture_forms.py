"""From every form in which a picture is given to one: upright, in RGB, with 8 bits per colour; and notes on the way.

The forms are a file, its bytes, an open file, a Pillow image of any mode, an array and a tensor. The scale of the
values is known from their type or from the file, or the picture is refused: uint8 ends at 255, bool at 1, uint16 at
65535, floats at 1, and a file says how many bits it holds. Pillow is imported only when a picture is read.
"""

from __future__ import annotations

import importlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mambascope.errors import InputError
from mambascope.loading.json_files import one_line
from mambascope.notices import kept_off
from mambascope.numbering import shown

#: The note on a grey picture that a model reads in colour.
GREY = "grey, read with three equal colours"

#: The background on which transparent parts are laid.
BACKGROUND = (255, 255, 255, 255)

#: EXIF's number for the orientation, and TIFF's for the bits of a sample and for whether 0 is white.
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262

#: Why a picture is refused that claims more than memory holds.
TOO_LARGE = "reading it takes more memory than there is"

#: The numbers of channels: grey, colours, colours with transparency.
CHANNELS = (1, 3, 4)

#: How far floats may leave the range from 0 to 1: half of the step between two of 255 levels, as rounding does.
BEYOND = 0.5 / 255


def in_rgb(source: Any, name: str = "picture") -> tuple[Any, str, list[str]]:
    """Return a picture as an upright Pillow image in RGB, its name, and notes on what was done to it.

    Transparent parts are laid on white. A colour profile is not applied, as where models are trained. Of several
    pictures in a file the first is read; of a Pillow image the frame that it stands at.

    Args:
        source: A file's name, its bytes, a file that is open for reading bytes, a Pillow image, or pixels: an array or
            a tensor of shape (h, w), (h, w, c) or (c, h, w) with 1, 3 or 4 channels, of uint8, uint16, bool, or
            floats from 0 to 1.
        name: What to call a picture that has no name of its own.

    Raises:
        InputError: if it is none of these or cannot be read, its values are of unknown scale, it has no pixels, or
            Pillow is not installed.
    """
    image = pillow()
    if isinstance(source, image.Image):
        return _of_image(source, Path(getattr(source, "filename", "") or name).name)
    if isinstance(source, (np.ndarray, Tensor)):
        return _of_pixels(source, name)
    if isinstance(source, (str, Path)):
        if not os.path.isfile(source):
            raise InputError(f"there is no picture {source}")
        return _of_file(source, str(source), Path(source).name)
    content = source.read() if hasattr(source, "read") else source
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InputError(
            f"a picture must be a file, bytes, a Pillow image, an array or a tensor of pixels, found {shown(source)}"
        )
    name = str(getattr(source, "name", name))
    return _of_file(io.BytesIO(content), name, Path(name).name)


def pillow() -> Any:
    """Return Pillow's module of images.

    Raises:
        InputError: if Pillow is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise InputError(
            "pictures are read by pillow, which is not installed: pip install mambascope[vision]"
        ) from error


def _of_file(file: Any, path: str, name: str) -> tuple[Any, str, list[str]]:
    image = pillow()
    try:
        with kept_off("PIL"), warnings.catch_warnings():  # what Pillow thinks of damaged files is in its error, too
            warnings.simplefilter("error", image.DecompressionBombWarning)
            warnings.filterwarnings("error", module=r"PIL\.")
            opened = image.open(file)
            with opened:
                return _of_image(opened, name, path)
    except (image.DecompressionBombWarning, image.DecompressionBombError) as error:
        raise InputError(f"{path} holds more pixels than are read, reduce it first: {one_line(error)}") from error
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} could not be read as an image: {TOO_LARGE}") from error
    except Exception as error:  # in a damaged file, Pillow raises whatever its parts stumble over
        raise InputError(f"{path} could not be read as an image: {one_line(error)}") from error


def _of_image(picture: Any, name: str, path: str = "") -> tuple[Any, str, list[str]]:
    """Return a Pillow image in RGB; `path` is what errors call it, by default its name."""
    path, notes = path or name, []
    try:
        turned = picture.getexif().get(ORIENTATION, 1) != 1
        deep = any(";16" in str(part) for part in getattr(picture, "tile", ()))
        picture.load()
        upright = importlib.import_module("PIL.ImageOps").exif_transpose(picture)
    except (AssertionError, AttributeError) as error:
        raise InputError(f"{path} could not be read as an image: it is closed, open it again") from error
    except MemoryError as error:
        raise InputError(f"{path} could not be read as an image: {TOO_LARGE}") from error
    except Exception as error:  # whatever Pillow's parts stumble over
        raise InputError(f"{path} could not be read as an image: {one_line(error)}") from error
    if 0 in upright.size:
        raise InputError(f"{path} has no pixels: it is {upright.width} wide and {upright.height} high")
    if turned:
        notes.append("turned upright, as the file says")
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        place = "the first" if picture.tell() == 0 else f"number {picture.tell() + 1}"
        notes.append(f"{place} of {frames} pictures in the file")
    profile = _profile(picture)
    if profile:
        notes.append(f"its colour profile {profile} is not applied")
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _of_deep_grey(upright, picture, path, notes)
    elif deep:
        notes.append("16 bits per colour reduced to 8")
    return _rgb(upright, path, notes), name, notes


def _profile(picture: Any) -> str:
    """Return the name of a picture's colour profile, unless it has none or the usual one of its kind."""
    content = picture.info.get("icc_profile")
    if not content or picture.mode == "LAB":
        return ""
    colours = importlib.import_module("PIL.ImageCms")
    try:
        name = colours.getProfileDescription(colours.ImageCmsProfile(io.BytesIO(content))).strip()
    except (OSError, colours.PyCMSError):
        return "(which cannot be read)"
    return "" if "srgb" in name.lower() else repr(name)


def _of_deep_grey(upright: Any, picture: Any, path: str, notes: list[str]) -> Any:
    """Return a picture of 16 bits of grey, or of floats, with 8 bits; `picture` is the one whose file it came from."""
    tags = getattr(picture, "tag_v2", {})
    full = None
    if upright.mode.startswith("I;16"):
        full = 2 ** tags.get(BITS, (16,))[0] - 1
    elif upright.mode == "I" and picture.format in ("PNG", "PPM"):  # as Pillow reads 16 bits of them
        full = 65535
    values = np.asarray(upright)
    reduced = _in_8_bits(values, full, path, notes)
    if full is not None and tags.get(PHOTOMETRIC) == 0:  # Pillow turns 8 bits over where 0 is white, but not 16
        reduced = 255 - reduced
    grey = pillow().fromarray(reduced)
    if (clear := upright.info.get("transparency")) is not None:
        seen = pillow().fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        return pillow().merge("LA", (grey, seen))
    return grey


def _of_pixels(source: np.ndarray | Tensor, name: str) -> tuple[Any, str, list[str]]:
    """Return an array or tensor in RGB."""
    if isinstance(source, Tensor):
        if source.is_meta:
            raise InputError("the picture is on the meta device, where it has no pixels")
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    pixels, notes = np.asarray(source), list[str]()
    shape, kind = pixels.shape, pixels.dtype
    if 0 in shape:
        raise InputError(f"the picture has no pixels: its shape is {shape}")
    last = len(shape) == 3 and shape[2] in CHANNELS
    first = len(shape) == 3 and shape[0] in CHANNELS
    if len(shape) != 2 and not (last or first):
        one = "; pass one picture at a time, as pixels[0]" if len(shape) == 4 else ""
        raise InputError(
            f"pixels must have shape (height, width), (height, width, channels) or (channels, height, width) with 1, 3 "
            f"or 4 channels, found {kind} of shape {shape}{one}"
        )
    if last and first:
        raise InputError(
            f"pixels of shape {shape} may have their channels first or last; pass a Pillow image instead, "
            "PIL.Image.fromarray(pixels)"
        )
    if first:
        pixels = np.moveaxis(pixels, 0, 2)
    if len(shape) == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if kind == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif kind != np.uint8:
        pixels = _in_8_bits(pixels, 65535 if kind == np.uint16 else None, "the picture", notes)
    return _rgb(pillow().fromarray(np.ascontiguousarray(pixels)), "the picture", notes), name, notes


def _in_8_bits(values: np.ndarray, full: int | None, path: str, notes: list[str]) -> np.ndarray:
    """Return values as uint8, given the largest that there can be: 1 for floats, for others None if it is unknown.

    Whole numbers keep their upper bits, as Pillow keeps them of files with 16 bits per colour.
    """
    if values.dtype.kind not in "iuf":
        raise InputError(f"{path} must hold uint8, uint16, bool or floats from 0 to 1, found {values.dtype}")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= -BEYOND and high <= 1 + BEYOND):  # also if one is NaN
            raise InputError(
                f"{path} holds floats from {low:g} to {high:g}, whose scale is unknown: divide them so that they lie "
                "between 0 and 1"
            )
        notes.append("floats from 0 to 1 reduced to 8 bits")
        return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    if full is None or not 0 <= low <= high <= full:
        raise InputError(
            f"{path} holds whole numbers ({values.dtype}) from {low} to {high}, whose scale is unknown: make them "
            "uint8 if 255 is the brightest that there can be, uint16 if 65535 is"
        )
    bits, of = full.bit_length(), "of grey" if values.ndim == 2 else "per colour"
    dark = f", though none is above {high} of {full}" if high < (full + 1) // 16 else ""
    notes.append(f"{bits} bits {of} reduced to 8{dark}")
    return (values.astype(np.uint32) >> (bits - 8)).astype(np.uint8)


def _rgb(picture: Any, path: str, notes: list[str]) -> Any:
    """Return a Pillow image of 8 bits per colour in RGB, with transparent parts on white."""
    image, mode = pillow(), picture.mode
    picture = picture.convert("LA") if mode == "La" else picture
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            notes.append("transparent parts laid on white")
        picture = image.alpha_composite(image.new("RGBA", picture.size, BACKGROUND), picture)
    if mode in ("L", "1", "LA", "La"):
        notes.append(GREY)
    elif mode not in ("RGB", "P", "PA", "RGBA", "RGBa"):
        notes.append(f"converted from {mode} to RGB")
    if mode == "LAB":
        colours = importlib.import_module("PIL.ImageCms")
        return colours.profileToProfile(
            picture, colours.createProfile("LAB"), colours.createProfile("sRGB"), outputMode="RGB"
        )
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise InputError(f"{path} cannot be converted to RGB: {one_line(error)}") from error
