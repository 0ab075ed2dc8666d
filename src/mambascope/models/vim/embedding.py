"""From a picture to tokens: patches with the class token among them, and positions for a picture of any size."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.grid import Grid
from mambascope.models.vim.configuration import VisionMambaConfig
from mambascope.models.vim.grid import inserted


class PatchEmbedding(nn.Module):
    """A convolution whose kernel is a patch; patches overlap where the stride is smaller than a patch."""

    def __init__(self, config: VisionMambaConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, stride=config.stride)

    def forward(self, pixel_values: Float[Tensor, "b c H W"]) -> Float[Tensor, "b M E"]:
        """Return the patches row by row."""
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class TokenSequence(nn.Identity):
    """Marks where a picture has become the tokens that the layers read, so that they can be read or replaced."""


def interpolated(positions: Float[Tensor, "1 L E"], known: Grid, wanted: Grid) -> Float[Tensor, "1 M E"]:
    """Return the position embedding for another grid; the class token's is kept and moved to its new place.

    Interpolation is bicubic, as in the released fine-tuning code.

    Args:
        positions: The model's position embedding.
        known: Its grid.
        wanted: The grid to interpolate it to.
    """
    if (known.rows, known.columns) == (wanted.rows, wanted.columns):
        return positions
    of_patches = positions[:, list(known.patch_positions)].unflatten(1, (known.rows, known.columns))
    size = (wanted.rows, wanted.columns)
    moved = F.interpolate(of_patches.permute(0, 3, 1, 2), size=size, mode="bicubic", align_corners=False)
    moved = moved.flatten(2).transpose(1, 2)
    if known.class_position is None:
        return moved
    return inserted(wanted, moved, positions[:, [known.class_position]])
