"""From a picture to what a vision model reads: upright, in RGB, resized, normalised; with notes on each step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mambascope.arguments import flag
from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.families import check_model
from mambascope.inputs.checks import check_processor
from mambascope.inputs.picture_forms import GREY, in_rgb, pillow
from mambascope.inputs.preparation import SETTINGS, Preparation, own_size, preparation, reads_pictures
from mambascope.memory import require_bytes
from mambascope.models.picture_models import StagedModel

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

#: Copies of a picture's values, of 4 bytes each, that are held at once while it is normalised.
AT_ONCE = 4

#: How many times the model's own height or width a checkpoint may have a picture read at: fine-tuning goes to 4 times.
MOST_TIMES = 8

#: The most pixels to which a picture is resized before its middle is cut out: only far longer pictures than any camera
#: takes come near.
LARGEST = 2**26


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
        source: A file, its bytes, a Pillow image, or pixels as an array or tensor: see `picture_forms.in_rgb`. The same
            picture gives the same in every form.
        model: The model that will read it.
        processor: Its image processor, whose settings are used; None for the checkpoint's `preprocessor_config.json`.
        keep_size: Leave the picture at its own size, whatever the model's; the model's positions are then interpolated.

    Raises:
        InputError: if the model does not read pictures, this is no picture, its values are of unknown scale, it is far
            longer than wide, or Pillow is not installed.
        CheckpointError: if the `preprocessor_config.json` cannot be used.
        MapTooLargeError: if its values would not fit in memory.
    """
    check_model(model)
    if not reads_pictures(model):
        raise InputError(f"{type(model).__name__} reads text, not pictures; choose a vision model")
    check_processor(model, processor)
    flag(keep_size, "keep_size")
    rules = preparation(model, processor)
    upright, name, notes = in_rgb(source)
    read, box = _sized(upright, rules, keep_size)
    _check_times(read, own_size(model), keep_size)
    notes += _about_size(upright, read, box, model)
    values = _values(read, rules, getattr(model.config, "num_channels", 3), notes)
    if not rules.told:
        notes.append(
            f"the checkpoint has no {SETTINGS}, so colours were scaled by ImageNet's mean and standard deviation"
            if len(rules.mean) == 3
            else f"the checkpoint has no {SETTINGS}, so pixels were scaled to the range -1 to 1"
        )
    left, top, right, down = map(round, box)
    kept = upright.crop((left, top, max(right, left + 1), max(down, top + 1)))
    kept.thumbnail((SHOWN_SIDE, SHOWN_SIDE), pillow().Resampling.LANCZOS)
    return Picture(name, values, torch.from_numpy(np.array(kept, dtype=np.uint8)), tuple(notes))


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
    if tall * wide > LARGEST:
        raise InputError(
            f"a picture of {_pixels(width, height)} pixels would be enlarged to {_pixels(wide, tall)}, of which the "
            "model reads the middle; cut it first to a shape that is less long"
        )
    resized = picture if (tall, wide) == (height, width) else picture.resize((wide, tall), rules.resample)
    if rules.crop is None:
        return resized, (0.0, 0.0, float(width), float(height))
    top, left = (tall - rules.crop[0]) // 2, (wide - rules.crop[1]) // 2
    down, right = top + rules.crop[0], left + rules.crop[1]
    across, along = width / wide, height / tall
    return resized.crop((left, top, right, down)), (left * across, top * along, right * across, down * along)


def _check_times(read: Any, own: tuple[int, int], keep_size: bool) -> None:
    """Raise InputError if a picture is read at many times the model's own size, unless the caller wants that."""
    width, height = read.size
    if not keep_size and max(height / own[0], width / own[1]) > MOST_TIMES:
        raise InputError(
            f"the picture would be read at {_pixels(width, height)} pixels, more than {MOST_TIMES} times the "
            f"{_pixels(own[1], own[0])} that the model was made for; correct the sizes in its {SETTINGS}, or make the "
            "picture as large as you want and set keep_size"
        )


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
        part = f"the middle {100 * share:.2g} % of it, " if share < 0.995 else ""
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
        if GREY in notes:
            notes.remove(GREY)
        else:
            notes.append("read in grey")
        read = read.convert("L")
    width, height = read.size
    needed = AT_ONCE * 4 * channels * width * height
    require_bytes(needed, torch.device("cpu"), f"a picture of {_pixels(width, height)} pixels", "make it smaller first")
    pixels = torch.from_numpy(np.array(read, dtype=np.float32)).reshape(height, width, channels)
    mean, std = (torch.tensor(part, dtype=torch.float32) for part in (rules.mean, rules.std))
    return ((pixels * rules.factor - mean) / std).permute(2, 0, 1)[None].contiguous()
