"""What happens to a picture before a model reads it: resizing, cropping and normalisation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers.image_processing_base import ImageProcessingMixin

from mambascope.errors import CheckpointError, InputError
from mambascope.loading.bundled import bundled_models
from mambascope.loading.json_files import read_json
from mambascope.loading.schemas import PictureSettings

#: The file in a checkpoint's folder that says how its pictures are prepared, as written by transformers.
SETTINGS = "preprocessor_config.json"

#: Mean and standard deviation of ImageNet's pixels, from 0 to 1: what most vision models were trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Pillow's number for bicubic resampling.
BICUBIC = 3


@dataclass(frozen=True)
class Preparation:
    """How pictures are prepared for one model.

    Attributes:
        scale: The size that the picture is resized to: height and width, or its shorter side; None for its own size.
        crop: Height and width that are then cut from its middle, after it is enlarged or (if `told` is false) reduced
            to cover them; None for all of it.
        resample: Pillow's number for the resampling filter.
        factor: The factor for pixels from 0 to 255.
        mean: Subtracted next, per channel.
        std: Divided by last, per channel.
        told: Whether these settings come from the checkpoint or its image processor rather than from our defaults.
    """

    scale: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    resample: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    told: bool


def reads_pictures(model: nn.Module) -> bool:
    """Return whether a model reads pictures rather than text."""
    return getattr(model, "main_input_name", None) == "pixel_values"


def own_size(model: nn.Module) -> tuple[int, int]:
    """Return the height and width of the pictures that a model was trained for.

    Raises:
        InputError: if its configuration does not say.
    """
    size = getattr(getattr(model, "config", None), "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if len(sides) != 2:
        raise InputError(f"{type(model).__name__} does not say how large the pictures that it reads are")
    return sides[0], sides[1]


def preparation(model: nn.Module, processor: ImageProcessingMixin | None = None) -> Preparation:
    """Return how pictures are prepared for a model: as its image processor or its `preprocessor_config.json` says.

    Without either, colours are scaled as for ImageNet. The picture is resized in its own proportions to cover the
    model's size, and its middle is read.

    Raises:
        InputError: if the model does not say how large its pictures are, or the image processor cannot be used.
        CheckpointError: if the file cannot be used.
    """
    channels = getattr(getattr(model, "config", None), "num_channels", 3)
    if processor is not None:
        settings = {key: value for key, value in processor.to_dict().items() if value is not None}
        try:
            return _told(settings, own_size(model), channels)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the image processor cannot be used: {type(error).__name__} {error}") from error
    name = getattr(model, "name_or_path", "")
    file = bundled_models().get(name, Path(name)) / SETTINGS
    if name and os.path.isfile(file):
        try:
            return _told(read_json(file, PictureSettings), own_size(model), channels)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be used: {type(error).__name__} {error}") from error
    size = own_size(model)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
    return Preparation(None, size, BICUBIC, 1 / 255, mean, std, told=False)


def _told(settings: Mapping[str, Any], own: tuple[int, int], channels: int) -> Preparation:
    """Return the preparation that a processor's settings describe."""
    scale: tuple[int, int] | int | None = None
    if settings.get("do_resize", True):
        size = settings.get("size", own[0] if own[0] == own[1] else {"height": own[0], "width": own[1]})
        if isinstance(size, Mapping):
            scale = int(size["shortest_edge"]) if "shortest_edge" in size else (int(size["height"]), int(size["width"]))
        else:
            scale = (int(size), int(size))
    crop = None
    if settings.get("do_center_crop", False):
        cut = settings.get("crop_size", {"height": own[0], "width": own[1]})
        crop = (int(cut["height"]), int(cut["width"])) if isinstance(cut, Mapping) else (int(cut), int(cut))
    normal = settings.get("do_normalize", True)
    mean = tuple(map(float, settings["image_mean"])) if normal else (0.0,) * channels
    std = tuple(map(float, settings["image_std"])) if normal else (1.0,) * channels
    if len(mean) != channels or len(std) != channels or not all(std):
        raise ValueError(f"image_mean and image_std must hold {channels} numbers each, and no deviation of zero")
    factor = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
    return Preparation(scale, crop, int(settings.get("resample", BICUBIC)), factor, mean, std, told=True)
