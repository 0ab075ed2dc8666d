"""A depthwise convolution over tokens that lie in a grid and look at their neighbours on all sides.

    a_k[d] = Σ_o w_o[d] u_{k+o}[d]

where o runs over the steps from a token to its neighbours, rows and columns, and nothing lies beyond the grid's edge.
VMamba has such a convolution over its patches (arXiv 2401.10166); MambaVision's, over tokens in a line (arXiv
2407.08083), is the same with one row. A causal convolution looks back alone: `mambascope.operators.affine` has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief


@dataclass(frozen=True, eq=False)
class GridConvolution:
    """One depthwise convolution without its bias; tokens stand last, row by row.

    Attributes:
        kernel: Taps, `p` from top to bottom and `q` from left to right, centred on the token; of an even number one
            more lies below or to the right.
        rows: Rows of the grid.
        columns: Its columns.
    """

    kernel: Float[Tensor, "D p q"]
    rows: int
    columns: int

    __repr__ = brief

    @cached_property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns from a token to the neighbour that each tap reads."""
        _, p, q = self.kernel.shape
        return tuple((row - (p - 1) // 2, column - (q - 1) // 2) for row in range(p) for column in range(q))

    @cached_property
    def taps(self) -> Float[Tensor, "D K"]:
        """The taps in the order of `steps`."""
        return self.kernel.flatten(1)

    def read(self, values: Float[Tensor, "*s L"], tap: int) -> Float[Tensor, "*s L"]:
        """Return for every token the value of the neighbour that it reads with a tap, zero beyond the edge."""
        return self._moved(values, *self.steps[tap])

    def written(self, values: Float[Tensor, "*s L"], tap: int) -> Float[Tensor, "*s L"]:
        """Return for every token the value of the one that reads it with a tap, zero beyond the edge."""
        down, right = self.steps[tap]
        return self._moved(values, -down, -right)

    def apply(self, u: Float[Tensor, "*s D L"]) -> Float[Tensor, "*s D L"]:
        """Return the convolution of u."""
        products = (self.taps[:, tap, None] * self.read(u, tap) for tap in range(len(self.steps)))
        return sum(products, start=torch.zeros_like(u))

    def _moved(self, values: Tensor, down: int, right: int) -> Tensor:
        """Return the value that stands so many rows and columns further; negative padding cuts."""
        if abs(down) >= self.rows or abs(right) >= self.columns:
            return torch.zeros_like(values)
        grid = values.unflatten(-1, (self.rows, self.columns))
        return F.pad(grid, (-right, right, -down, down)).flatten(-2)
