"""The short convolution between two gates (LFM2, Liquid AI, arXiv 2511.23404) as an operator: a band of K diagonals.

    alpha_ij = read_i w_{i-j} write_j      for 0 ≤ i - j < K, and else 0,

channel by channel. Everything but a table of all pairs takes time and memory linear in L.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Block, Places, numbers
from mambascope.operators.convolution import CausalConvolution
from mambascope.operators.per_head import PerHead

#: Targets in one block of the band.
ROWS = 64


@dataclass(frozen=True, eq=False)
class ShortConvolution(PerHead):
    """The matrices of one gated convolution, frozen at the gates of a forward pass: a head for every channel.

    Attributes:
        taps: w, tap 0 on the current token.
        write: The gate of the sources.
        read: The gate of the targets.
        skip: Zero: a token reaches its own output through tap 0 alone.
    """

    taps: Float[Tensor, "D K"]
    write: Float[Tensor, "b L D"]
    read: Float[Tensor, "b L D"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per channel."""
        return self.taps.shape[0]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.write.shape[1]

    @property
    def state_size(self) -> int:
        """N, the tokens before the current one that a target sees."""
        return self.taps.shape[1] - 1

    def written(self, sources: slice) -> Float[Tensor, "b D c N"]:
        """Return each source's gate at its place in the state, which holds the last K - 1 values; see `Stepwise`."""
        age = self.length - 1 - numbers(sources, self.taps.device)
        places = age[:, None] == torch.arange(self.state_size, device=age.device)
        return self.write[:, sources].transpose(1, 2)[..., None] * places

    def recalled(self) -> Float[Tensor, "b L D N"]:
        """Return read_i w_{n+1}, the taps on the tokens before; see `Stepwise`."""
        return self.read[..., None] * self.taps[:, 1:]

    def immediate(self) -> Float[Tensor, "b L D"]:
        """Return alpha_ii."""
        return self.read * self.taps[:, 0] * self.write

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the blocks of the band alone: every other pair is zero."""
        reach = self.taps.shape[1] - 1 + taps - 1
        for top in range(0, self.length, ROWS):
            stop = min(top + ROWS, self.length)
            yield Block(slice(top, stop), slice(max(0, top - reach), stop))

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v; differentiable."""
        return self.read * CausalConvolution(self.taps).apply(self.write * v)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel: the same convolution over the reversed tokens, with the gates swapped."""
        return self.write * CausalConvolution(self.taps).apply((self.read * v).flip(1)).flip(1)

    def forwards(
        self, v: Float[Tensor, "b L D"], before: Float[Tensor, "b N D"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b N D"]]:
        """Return alpha v and what the values before the text give, and the last N values; see `Carried`."""
        before = v.new_zeros(v.shape[0], self.state_size, v.shape[2]) if before is None else before
        joined = torch.cat([before, self.write * v], dim=1)
        convolved = CausalConvolution(self.taps).apply(joined)[:, self.state_size :]
        return self.read * convolved, joined[:, joined.shape[1] - self.state_size :].clone()

    def backwards(
        self, v: Float[Tensor, "b L D"], after: Float[Tensor, "b N D"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b N D"]]:
        """Return vᵀ alpha and what a gradient at the last N values gives, and that before the text; see `Carried`."""
        flow = F.pad(self.read * v, (0, 0, self.state_size, 0))
        joined = CausalConvolution(self.taps).apply(flow.flip(1)).flip(1)
        if after is not None:
            joined = joined + F.pad(after, (0, 0, self.length, 0))
        return self.write * joined[:, self.state_size :], joined[:, : self.state_size]

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero outside the band."""
        taps, write, read = self.taps, self.write, self.read
        if maps is not None:
            taps, write, read = taps[list(maps)], write[..., list(maps)], read[..., list(maps)]
        targets, sources = (numbers(places, taps.device) for places in (rows, columns))
        back = targets[:, None] - sources
        inside = (back >= 0) & (back < taps.shape[1])
        band = taps[:, back.clamp(0, taps.shape[1] - 1)] * inside
        return band * read[:, rows].transpose(1, 2)[..., None] * write[:, columns].transpose(1, 2)[:, :, None]
