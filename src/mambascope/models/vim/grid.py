"""How Vision Mamba cuts a picture into patches, and where it puts the class token among them."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.grid import Grid

#: Positions of the class token among the patches.
ClassToken = Literal["middle", "first", "last", "none"]


def class_position(patches: int, place: ClassToken) -> int | None:
    """Return the position of the class token among the patches; `middle` comes just before an odd middle patch."""
    return {"middle": patches // 2, "first": 0, "last": patches, "none": None}[place]


def grid_of(height: int, width: int, patch: int, stride: int, place: ClassToken) -> Grid:
    """Return the grid of a picture's patches; a remainder on the right and below, less than a stride, is not read.

    Raises:
        InputError: if the picture is smaller than one patch.
    """
    if min(height, width) < patch:
        raise InputError(f"the picture has {height} x {width} pixels, fewer than one patch of side {patch}")
    rows, columns = (height - patch) // stride + 1, (width - patch) // stride + 1
    return Grid(rows, columns, class_position(rows * columns, place), patch, stride)


def inserted(grid: Grid, patches: Float[Tensor, "b M E"], token: Float[Tensor, "b 1 E"]) -> Float[Tensor, "b L E"]:
    """Return the patches with the class token at its place."""
    place = grid.class_position
    return torch.cat([patches[:, :place], token, patches[:, place:]], dim=1)
