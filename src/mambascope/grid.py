"""How a picture's patches and its class token are arranged in the sequence of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError


@dataclass(frozen=True)
class Grid:
    """The tokens of one picture: patches row by row, with the class token among them.

    Attributes:
        rows: Number of patches from top to bottom.
        columns: Number of patches from left to right.
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
    def tokens(self) -> int:
        """L, the number of tokens, including the class token."""
        return self.rows * self.columns + (self.class_position is not None)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels, of the area that the patches cover."""
        return self.patch + (self.rows - 1) * self.stride, self.patch + (self.columns - 1) * self.stride

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

    def place(self, position: int) -> tuple[int, int] | None:
        """Return the row and column of the patch at a position, or None for the class token."""
        if position == self.class_position:
            return None
        return divmod(position - (self.class_position is not None and position > self.class_position), self.columns)

    def name(self, position: int) -> str:
        """Return a readable name for a position: `class`, or the `row,column` of a patch."""
        place = self.place(position)
        return "class" if place is None else f"{place[0]},{place[1]}"

    def over_patches(self, scores: Float[Tensor, "*s L"]) -> Float[Tensor, "*s rows columns"]:
        """Return the patches' scores as a grid; the class token's is left out."""
        return scores[..., list(self.patch_positions)].unflatten(-1, (self.rows, self.columns))
