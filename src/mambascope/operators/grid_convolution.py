"""A depthwise convolution over a grid of tokens, which sees neighbours on all sides, and a mixer that contains one.

    a_k[d] = Σ_o w_o[d] u_{k+o}[d]

where o runs over the offsets (rows, columns) from a token to its neighbours, and the grid is padded with zeros: source
j writes at the tokens j-o that have it as a neighbour. VMamba (arXiv 2401.10166) has such a convolution over its
patches, before four scans; MambaVision's (arXiv 2407.08083), over a line of tokens before one scan in half of the
channels, is the same with one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.affine import AffineMixer
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.blocks import Block, Workspace, numbers


@dataclass(frozen=True, eq=False)
class GridConvolution:
    """One depthwise convolution, without its bias, over a grid of tokens in row-major order.

    Attributes:
        kernel: Taps, `p` from top to bottom and `q` from left to right, centred on the token; if their number is even,
            the extra one lies below or to the right.
        rows: Number of rows in the grid.
        columns: Number of columns.
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

    def apply(self, u: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return the convolution of u."""
        return self.gather(self.taps.t()[:, :, None] * u[:, None].transpose(-1, -2))

    def at_written(self, values: Float[Tensor, "b L D"], sources: slice) -> Float[Tensor, "b K D c"]:
        """Return the value of the token that reads each source with each tap; zero beyond the edge."""
        by_channel = values.transpose(1, 2)
        return torch.stack([self.readers(by_channel, tap)[..., sources] for tap in range(len(self.steps))], dim=1)

    def gather(self, written: Float[Tensor, "b K D L"]) -> Float[Tensor, "b L D"]:
        """Return, for every token, the sum of what its neighbours write there."""
        total = torch.zeros_like(written[:, 0])
        for (down, right), part in zip(self.steps, written.unbind(1), strict=True):
            total += self._moved(part, down, right)
        return total.transpose(1, 2)

    def readers(self, values: Float[Tensor, "*s L"], tap: int) -> Float[Tensor, "*s L"]:
        """Return, for every token, the value of the token that reads it with a tap; zero beyond the edge."""
        down, right = self.steps[tap]
        return self._moved(values, -down, -right)

    def _moved(self, values: Tensor, down: int, right: int) -> Tensor:
        """Return, for every token, the value `down` rows and `right` columns further; negative padding crops."""
        if abs(down) >= self.rows or abs(right) >= self.columns:
            return torch.zeros_like(values)
        grid = values.unflatten(-1, (self.rows, self.columns))
        return F.pad(grid, (-right, right, -down, down)).flatten(-2)


@dataclass(frozen=True, eq=False, repr=False)
class GridConvolutionMixer(AffineMixer):
    """A mixer whose convolution sees neighbours on all sides, and so later tokens even if its scan does not.

    A source may write at tokens that lie far apart, so tiles are whole rows of the scan's matrix, brought to the
    sources tap by tap.
    """

    convolution: GridConvolution

    @property
    def causal(self) -> bool:
        """Always False: the convolution looks ahead."""
        return False

    coarse_blocks = AffineMap.coarse_blocks
    implicit_mean = AffineMap.implicit_mean

    def _mixed(
        self, block: Block, taps: Float[Tensor, "b K D L"], gate: Float[Tensor, "b t D"] | None, workspace: Workspace
    ) -> Float[Tensor, "b D t L"]:
        """Return g_i ⊙ Σ_k (alpha_ik + D [i=k]) ⊙ taps of whole rows."""
        alpha = self.scan.mix(block, None, None, workspace)
        rows = numbers(block.rows, alpha.device)
        alpha[:, :, torch.arange(len(rows), device=rows.device), rows] += self.scan.skip[:, None]
        mixed = workspace.take("by taps", tuple(alpha.shape), alpha).zero_()
        for tap in range(self.taps):
            mixed.addcmul_(self.convolution.readers(alpha, tap), taps[:, tap, :, None])
        return mixed if gate is None else mixed.mul_(gate.transpose(1, 2)[..., None])
