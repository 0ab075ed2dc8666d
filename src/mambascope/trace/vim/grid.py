"""How a picture is cut into patches, and where among them the class token stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError

#: Where the class token stands among the patches.
ClassToken = Literal["middle", "first", "last", "none"]


@dataclass(frozen=True)
class Grid:
    """The tokens of one picture: patches row by row, with the class token among them.

    Attributes:
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        class_position: Position of the class token among all tokens; None if there is none.
        patch: Side of a patch in pixels.
        stride: Pixels from one patch to the next.
    """

    rows: int
    columns: int
    class_position: int | None
    patch: int
    stride: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """L, the number of tokens, the class token included."""
        return self.patches + (self.class_position is not None)

    @property
    def patch_positions(self) -> tuple[int, ...]:
        """Positions of the patches among all tokens, row by row."""
        return tuple(position for position in range(self.tokens) if position != self.class_position)

    def position(self, row: int, column: int) -> int:
        """Return the position of a patch among all tokens.

        Raises:
            InputError: if there is no such patch.
        """
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise InputError(
                f"there is no patch in row {row} and column {column}: the picture has {self.rows} rows and "
                f"{self.columns} columns of patches, counted from 0"
            )
        return self.patch_positions[row * self.columns + column]

    def name(self, position: int) -> str:
        """Return what stands at a position, for people: `class`, or `row,column` of a patch."""
        if position == self.class_position:
            return "class"
        number = position - (self.class_position is not None and position > self.class_position)
        return f"{number // self.columns},{number % self.columns}"

    def over_patches(self, scores: Float[Tensor, "*s L"]) -> Float[Tensor, "*s rows columns"]:
        """Return the patches' scores as they lie in the picture; the class token's is left out."""
        return scores[..., list(self.patch_positions)].unflatten(-1, (self.rows, self.columns))

    def insert(self, patches: Float[Tensor, "b M E"], token: Float[Tensor, "b 1 E"]) -> Float[Tensor, "b L E"]:
        """Return the patches with the class token at its place."""
        place = self.class_position
        return torch.cat([patches[:, :place], token, patches[:, place:]], dim=1)


def class_position(patches: int, place: ClassToken) -> int | None:
    """Return the position of the class token among so many patches: the middle one of an odd number follows it."""
    return {"middle": patches // 2, "first": 0, "last": patches, "none": None}[place]


def grid_of(height: int, width: int, patch: int, stride: int, place: ClassToken) -> Grid:
    """Return the patches of a picture; what is left at the right and below, less than a stride, is not read.

    Raises:
        InputError: if the picture is smaller than one patch.
    """
    if min(height, width) < patch:
        raise InputError(f"the picture has {height} x {width} pixels, which is less than one patch of side {patch}")
    rows, columns = (height - patch) // stride + 1, (width - patch) // stride + 1
    return Grid(rows, columns, class_position(rows * columns, place), patch, stride)
