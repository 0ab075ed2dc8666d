"""Where a model's tokens are in its picture: the only place that knows how each vision model cuts and reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import DeiTForImageClassification, ViTForImageClassification

from mambascope.grid import Grid
from mambascope.models.picture_models import StagedModel
from mambascope.models.vim import VisionMamba


def patch_grid(model: nn.Module, inputs: Mapping[str, Any]) -> Grid | None:
    """Return how a model cuts its input picture; None if there is no picture, or the model does not say."""
    pixels = inputs.get("pixel_values")
    if pixels is None or not hasattr(getattr(model, "config", None), "patch_size"):
        return None
    height, width = pixels.shape[-2:]
    if isinstance(model, VisionMamba):
        return model.config.grid(height, width)
    size: Any = model.config.patch_size  # type: ignore[union-attr]
    if not isinstance(size, int):
        return None
    # the Transformers that `find_mixers` knows put a class token before patches that do not overlap
    return Grid(height // size, width // size, 0, size, size)


def stage_grid(model: StagedModel, stage: int, inputs: Mapping[str, Any]) -> Grid | None:
    """Return where the tokens of one stage are in the picture; None without a picture, or if a cell is cut off."""
    pixels, cell = inputs.get("pixel_values"), model.cells()[stage]
    if pixels is None or pixels.shape[-2] % cell or pixels.shape[-1] % cell:
        return None
    return Grid(pixels.shape[-2] // cell, pixels.shape[-1] // cell, None, cell, cell)


def class_positions(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the positions that a model reads a picture's classes from: the class token's, or all if it has none.

    None if this is not known for the model.
    """
    if not isinstance(model, VisionMamba | ViTForImageClassification | DeiTForImageClassification):
        return None
    grid = patch_grid(model, inputs)
    if grid is None:
        return None
    return grid.patch_positions if grid.class_position is None else (grid.class_position,)
