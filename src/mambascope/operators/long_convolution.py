"""A convolution as long as the text, between two gates, as an operator: a Toeplitz matrix per map.

    alpha_ij = read_i h_{i-j} write_j ,   j ≤ i

With gates of one the matrix is the same for every text: S4 (Gu et al., arXiv 2111.00396), S4D (arXiv 2206.11893), DSS
(Gupta et al., arXiv 2203.14343) and S5 (Smith et al., arXiv 2208.04933). With gates, it is a fixed mixer with diagonal
data control: GSS (Mehta et al., arXiv 2206.13947) and Hyena (Poli et al., arXiv 2302.10866). Products are made by the
fast Fourier transform; kernels come from `mambascope.operators.kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Places, count, numbers
from mambascope.operators.per_head import PerHead


@dataclass(frozen=True, eq=False)
class LongConvolution(PerHead):
    """The matrices of one gated long convolution, frozen at the gates of a forward pass.

    Several channels in a row may share a matrix: channel d belongs to map d // (D / M).

    Attributes:
        kernel: h, from the current token back to the one L-1 tokens before.
        write: The gate of the sources.
        read: The gate of the targets.
        skip: D per channel, the direct path.
    """

    kernel: Float[Tensor, "M L"]
    write: Float[Tensor, "b L M"]
    read: Float[Tensor, "b L M"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @classmethod
    def fixed(cls, kernel: Float[Tensor, "M L"], texts: int, skip: Float[Tensor, " D"]) -> LongConvolution:
        """Return the convolution without gates, the same for every one of some texts."""
        ones = kernel.new_ones(()).expand(texts, kernel.shape[1], kernel.shape[0])
        return cls(kernel, ones, ones, skip)

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per kernel."""
        return self.kernel.shape[0]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.kernel.shape[1]

    @property
    def state_size(self) -> int:
        """N = L: a kernel without a recurrence remembers every token."""
        return self.kernel.shape[1]

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, in O(L log L); small entries have the rounding of the largest."""
        return self._wide(self.read) * self._convolved(self._wide(self.write) * v)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel: the same convolution over the reversed tokens, with the gates swapped."""
        return self._wide(self.write) * self._convolved((self._wide(self.read) * v).flip(1)).flip(1)

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero where the source comes after the target."""
        kernel, write, read = self.kernel, self.write, self.read
        if maps is not None:
            kernel, write, read = kernel[list(maps)], write[..., list(maps)], read[..., list(maps)]
        return (
            _toeplitz(kernel, rows, columns)
            * read[:, rows].transpose(1, 2)[..., None]
            * write[:, columns].transpose(1, 2)[:, :, None]
        )

    def _wide(self, values: Float[Tensor, "b L M"]) -> Float[Tensor, "b L D"]:
        """Return values per channel."""
        return values.repeat_interleave(self.skip.shape[0] // self.maps, dim=2)

    def _convolved(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return Σ_{j≤i} h_{i-j} v_j, by the transform of twice the length: what would wrap round meets zeros."""
        size = 2 * self.length
        kernel = torch.fft.rfft(
            self.kernel.repeat_interleave(self.skip.shape[0] // self.maps, dim=0).t(), n=size, dim=0
        )
        return torch.fft.irfft(kernel * torch.fft.rfft(v, n=size, dim=1), n=size, dim=1)[:, : self.length]


def _toeplitz(kernel: Float[Tensor, "M L"], rows: Places, columns: Places) -> Float[Tensor, "M t c"]:
    """Return h_{i-j} for some targets and sources, zero where the source comes after the target."""
    t, c = count(rows), count(columns)
    if (
        isinstance(rows, slice) and isinstance(columns, slice) and t and c
    ):  # a window that slides, not a table of places
        last = rows.stop - 1 - columns.start
        reached = kernel[:, max(0, rows.start - columns.stop + 1) : max(0, last + 1)]
        return F.pad(reached, (t + c - 1 - reached.shape[1], 0)).unfold(1, c, 1).flip(-1)
    targets, sources = (numbers(places, kernel.device) for places in (rows, columns))
    back = targets[:, None] - sources
    return kernel[:, back.clamp(min=0)] * (back >= 0)
