"""A picture with only some of its patches: what insertion and deletion of patches show to a model.

`perturbation_curves` asks for the readout with sets of sources kept; this makes pictures of such sets.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.errors import InputError


def kept_patches(
    pixels: Float[Tensor, "3 H W"], kept: Bool[Tensor, "b n"], grid: tuple[int, int], fill: float = 0.0
) -> Float[Tensor, "b 3 H W"]:
    """Return the picture with every patch that is not kept erased.

    Args:
        pixels: The picture as the model takes it.
        kept: Which patches are kept, row by row.
        grid: Rows and columns of patches, which divide the picture evenly.
        fill: What erased pixels become: 0 of normalised pixels is the mean colour.

    Raises:
        InputError: if the grid does not divide the picture, or has another number of patches than `kept`.
    """
    (rows, columns), (H, W) = grid, pixels.shape[1:]
    if H % rows or W % columns or kept.shape[1] != rows * columns:
        raise InputError(
            f"{kept.shape[1]} patches in {rows} rows and {columns} columns do not divide a picture of {H} x {W} pixels"
        )
    marks = kept.view(-1, 1, rows, columns).to(pixels.device)
    marks = marks.repeat_interleave(H // rows, dim=2).repeat_interleave(W // columns, dim=3)
    return torch.where(marks, pixels, fill)
