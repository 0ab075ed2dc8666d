"""From a score for each patch to a score for each pixel."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError


def pixel_map(patches: Float[Tensor, "*b rows columns"], size: tuple[int, int]) -> Float[Tensor, "*b H W"]:
    """Return patches' scores as pixels', bilinearly between the patches' centres, as Chefer et al. 2021 upsample maps.

    Args:
        patches: A score per patch, as the patches lie in the picture.
        size: The picture's height and width.

    Raises:
        InputError: if a score is NaN or infinite, or there are more patches than pixels.
    """
    rows, columns = patches.shape[-2:]
    if rows > size[0] or columns > size[1]:
        raise InputError(f"a picture of {size[0]} x {size[1]} pixels has no {rows} x {columns} patches")
    if not patches.isfinite().all():
        raise InputError("a patch's score is NaN or infinite")
    stacked = patches.double().reshape(-1, 1, rows, columns)
    pixels = F.interpolate(stacked, size, mode="bilinear", align_corners=False)
    return pixels.reshape(*patches.shape[:-2], *size).to(patches.dtype)
