"""From a file to what a vision model reads: opened, turned upright, converted to RGB, resized, normalised; with notes.

Pillow, which reads the files, is imported only when a picture is read.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.inputs.preparation import SETTINGS, Preparation, own_size, preparation, reads_pictures
from mambascope.loading.json_files import one_line
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import shown

#: The first bytes of picture files.
BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  ")

#: The suffixes of picture files.
SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".gif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".jp2",
        ".ppm",
        ".pgm",
        ".svg",
    )
)

#: The longer side, in pixels, of the copy that is kept for display.
SHOWN_SIDE = 640


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as a model reads it and as people see it.

    Attributes:
        name: The file's name.
        pixel_values: What the model reads.
        image: The part of the original that the model reads, in its own colours, at most `SHOWN_SIDE` pixels a side.
        notes: What was done to it, one sentence per step.
    """

    name: str
    pixel_values: Float[Tensor, "1 c H W"]
    image: UInt8[Tensor, "h w 3"]
    notes: tuple[str, ...]

    __repr__ = brief


def is_picture(path: str | Path) -> bool:
    """Return whether this names a picture file, judging by its first bytes or, if those are unknown, by its suffix."""
    if not os.path.isfile(path):  # unlike Path.is_file, returns False for a text that is too long for a name
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return Path(path).suffix.lower() in SUFFIXES
    known = start.startswith(BEGINNINGS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:8] == b"ftyp"
    return known or Path(path).suffix.lower() in SUFFIXES


def read_picture(source: Any, model: nn.Module, processor: Any = None, *, keep_size: bool = False) -> Picture:
    """Return a picture ready for a model, prepared as its image processor or its `preprocessor_config.json` says.

    Args:
        source: A file, a Pillow image, or pixels (h, w, 3) or (h, w) as uint8.
        model: The model that will read it.
        processor: Its image processor, whose settings are used; None for the checkpoint's `preprocessor_config.json`.
        keep_size: Leave the picture at its own size, whatever the model's; the model's positions are then interpolated.

    Raises:
        InputError: if the model does not read pictures, the file is not a picture, or Pillow is not installed.
        CheckpointError: if the `preprocessor_config.json` cannot be used.
    """
    if not reads_pictures(model):
        raise InputError(f"{type(model).__name__} reads text, not pictures; choose a vision model")
    rules = preparation(model, processor)
    opened, name, notes = _opened(source)
    upright, more = _rgb(opened, name)
    notes += more
    read, box = _sized(upright, rules, keep_size)
    notes += _about_size(upright, read, box, model)
    values = _values(read, rules, getattr(model.config, "num_channels", 3), notes)
    if not rules.told:
        notes.append(
            f"the checkpoint has no {SETTINGS}, so colours were scaled by ImageNet's mean and standard deviation"
            if len(rules.mean) == 3
            else f"the checkpoint has no {SETTINGS}, so pixels were scaled to the range -1 to 1"
        )
    kept = upright.crop(tuple(map(round, box)))
    kept.thumbnail((SHOWN_SIDE, SHOWN_SIDE), _pillow().Resampling.LANCZOS)
    return Picture(name, values, torch.from_numpy(np.array(kept, dtype=np.uint8)), tuple(notes))


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise InputError(
            "pictures are read by pillow, which is not installed: pip install mambascope[vision]"
        ) from error


def _opened(source: Any) -> tuple[Any, str, list[str]]:
    """Return an upright Pillow image, its name, and notes on the file."""
    image, notes = _pillow(), []
    if isinstance(source, image.Image):
        return source, Path(getattr(source, "filename", "") or "picture").name, []
    if isinstance(source, (np.ndarray, Tensor)):
        return _of_array(np.asarray(source)), "picture", []
    if not isinstance(source, (str, Path)):
        raise InputError(f"a picture must be a file, a Pillow image or pixels, found {shown(source)}")
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no picture {path}")
    try:
        with image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            picture.load()
            upright = importlib.import_module("PIL.ImageOps").exif_transpose(picture)
            if picture.getexif().get(0x0112, 1) != 1:
                notes.append("turned upright, as the file says")
            if frames > 1:
                notes.append(f"the first of {frames} pictures in the file")
            return upright, path.name, notes
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise InputError(f"{path} could not be read as an image: {one_line(error)}") from error


def _of_array(pixels: np.ndarray) -> Any:
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (2, 3)
        or pixels.shape[2:] not in ((), (3,), (4,))
        or not pixels.size
    ):
        raise InputError(
            f"pixels must be uint8 of shape (height, width, 3) or (height, width), found {pixels.dtype} of shape "
            f"{pixels.shape}"
        )
    return _pillow().fromarray(pixels)


def _rgb(picture: Any, name: str) -> tuple[Any, list[str]]:
    """Return the picture in RGB, with transparent parts on white, and notes on what was done."""
    image, notes = _pillow(), []
    if picture.mode.startswith("I"):  # 16 bits of grey
        notes.append("16 bits of grey reduced to 8")
        picture = image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    elif picture.mode == "F":
        raise InputError(f"{name} has floating-point pixels of unknown scale; save it with 8 or 16 bits")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        if layered.getextrema()[3][0] < 255:
            notes.append("transparent parts laid on white")
        white = image.new("RGBA", layered.size, (255, 255, 255, 255))
        return image.alpha_composite(white, layered).convert("RGB"), notes
    if picture.mode in ("L", "1"):
        notes.append("grey, read with three equal colours")
    elif picture.mode not in ("RGB", "P"):
        notes.append(f"converted from {picture.mode} to RGB")
    return picture.convert("RGB"), notes


def _sized(picture: Any, rules: Preparation, keep_size: bool) -> tuple[Any, tuple[float, float, float, float]]:
    """Return the picture at the size at which it is read, and which part of the original that is."""
    width, height = picture.size
    if keep_size:
        return picture, (0.0, 0.0, float(width), float(height))
    tall, wide = height, width
    if isinstance(rules.scale, tuple):
        tall, wide = rules.scale
    elif rules.scale is not None:
        tall, wide = _covering(picture, (rules.scale, rules.scale))
    if rules.crop is not None and (not rules.told or tall < rules.crop[0] or wide < rules.crop[1]):
        tall, wide = _covering(picture, rules.crop)
    resized = picture if (tall, wide) == (height, width) else picture.resize((wide, tall), rules.resample)
    if rules.crop is None:
        return resized, (0.0, 0.0, float(width), float(height))
    top, left = (tall - rules.crop[0]) // 2, (wide - rules.crop[1]) // 2
    down, right = top + rules.crop[0], left + rules.crop[1]
    across, along = width / wide, height / tall
    return resized.crop((left, top, right, down)), (left * across, top * along, right * across, down * along)


def _covering(picture: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width at which the picture, in its own proportions, just covers a size."""
    width, height = picture.size
    factor = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * factor)), max(size[1], round(width * factor))


def _about_size(picture: Any, read: Any, box: tuple[float, ...], model: nn.Module) -> list[str]:
    """Return notes on how the picture was fitted to the model's size."""
    width, height = picture.size
    notes = []
    if read.size != picture.size:
        share = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
        part = f"the middle {100 * share:.0f} % of it, " if share < 0.995 else ""
        notes.append(f"{part}resized from {_pixels(width, height)} to {_pixels(*read.size)} pixels")
    own = own_size(model)
    if not isinstance(model, StagedModel) and (read.size[1], read.size[0]) != own:
        notes.append(
            f"the model's positions, made for {_pixels(own[1], own[0])} pixels, interpolated for {_pixels(*read.size)}"
        )
    return notes


def _pixels(width: int, height: int) -> str:
    return f"{width} x {height}"


def _values(read: Any, rules: Preparation, channels: int, notes: list[str]) -> Float[Tensor, "1 c H W"]:
    """Return the values that the model reads."""
    if channels not in (1, 3):
        raise InputError(f"the model reads pictures of {channels} channels, but a picture file has 1 or 3")
    if channels == 1:
        notes.append("read in grey")
        read = read.convert("L")
    pixels = torch.from_numpy(np.array(read, dtype=np.float32)).reshape(read.size[1], read.size[0], channels)
    mean, std = torch.tensor(rules.mean), torch.tensor(rules.std)
    return ((pixels * rules.factor - mean) / std).permute(2, 0, 1)[None].contiguous()
