"""The common base of token mixers whose channels share one matrix per head: Mamba-2's scan, softmax attention.

If every channel has a matrix of its own, there are as many heads as channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.blocks import Block, Places, Workspace, causal_blocks, padded_tile, split

#: Most targets and sources of a block whose mean over channels is taken at once.
MEAN_SIZE = 256


class PerHead(ABC):
    """A `TokenMixer` that lacks `maps`, `length`, `state_size`, `tile` and the two products; subclasses add them.

    Attributes:
        skip: D, the direct path per channel.
    """

    skip: Float[Tensor, " D"]

    @property
    @abstractmethod
    def maps(self) -> int:
        """Number of distinct matrices: one per head."""

    @property
    @abstractmethod
    def length(self) -> int:
        """L, the number of tokens."""

    @property
    def causal(self) -> bool:
        """Whether no target depends on later tokens; subclasses override it where one may."""
        return True

    @abstractmethod
    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel."""

    @abstractmethod
    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero where the source comes after the target."""

    def channels(self, maps: Float[Tensor, "b H *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-head values: channel d belongs to head d // P."""
        return maps.repeat_interleave(self.skip.shape[0] // self.maps, dim=1)

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the blocks of the causal triangle, large ones, or the whole square when targets see later tokens."""
        if self.causal:
            yield from causal_blocks(self.length, taps, base=64)
        else:
            yield Block(slice(0, self.length), slice(0, self.length))

    def mean_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the same blocks in pieces, since `mean` holds the matrices of all heads for one."""
        for block in self.blocks(taps):
            yield from split(block, MEAN_SIZE, MEAN_SIZE)

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels."""
        return self.apply_transposed(v[..., None].expand(-1, -1, self.skip.shape[0])).mean(dim=-1)

    def mix(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b D t c"]:
        """Return what the sources of a block give to its targets per channel; see `TokenMixer.mix`."""
        return mix_heads(self._padded_tile(block, taps), taps, gate, self.skip.shape[0], workspace)

    def mean(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b t c"]:
        """Return `mix` averaged over channels, by products of inner size P that never hold the D matrices."""
        return mean_over_heads(self._padded_tile(block, taps), taps, gate, self.skip.shape[0])

    def _padded_tile(self, block: Block, taps: Tensor | None) -> Float[Tensor, "b H t reach"]:
        """Return alpha with the K-1 sources to the right of the block, zero where the text has ended."""
        return padded_tile(self.tile, block, 0 if taps is None else taps.shape[1] - 1, self.length)


def mix_heads(
    alpha: Float[Tensor, "b H t reach"],
    taps: Float[Tensor, "b K D c"] | None,
    gate: Float[Tensor, "b t D"] | None,
    channels: int,
    workspace: Workspace,
) -> Float[Tensor, "b D t c"]:
    """Return Σ_δ gate_i alpha_i,j+δ taps_jδ for every channel of a block; see `TokenMixer.mix`.

    Args:
        alpha: The heads' matrices with the K-1 sources to the right of the block, zero beyond the end.
        taps: What source j writes at position j+δ; None means 1 at δ = 0.
        gate: A factor per target, 1 by default.
        channels: D, divided among the heads evenly and in order.
        workspace: Buffers; the answer lives in one.
    """
    b, H, t, reach = alpha.shape
    c = reach if taps is None else taps.shape[-1]
    out = workspace.take("mixed", (b, H, channels // H, t, c), alpha)
    if taps is None:
        out.copy_(alpha[:, :, None])
    else:
        by_head = rearrange(taps, "b k (h p) c -> k b h p 1 c", h=H)
        torch.mul(alpha[:, :, None, :, :c], by_head[0], out=out)
        for shift in range(1, len(by_head)):
            out.addcmul_(alpha[:, :, None, :, shift : shift + c], by_head[shift])
    if gate is not None:
        out *= rearrange(gate, "b t (h p) -> b h p t 1", h=H)
    return out.flatten(1, 2)


def mean_over_heads(
    alpha: Float[Tensor, "b H t reach"],
    taps: Float[Tensor, "b K D c"] | None,
    gate: Float[Tensor, "b t D"] | None,
    channels: int,
) -> Float[Tensor, "b t c"]:
    """Return `mix_heads` averaged over channels, by products of inner size P that never hold the D matrices."""
    if taps is None and gate is None:
        return alpha.mean(dim=1)
    b, H, t, reach = alpha.shape
    c = reach if taps is None else taps.shape[-1]
    one = alpha.new_ones(b, 1, channels, 1)
    gates = (
        repeat(one, "b 1 (h p) 1 -> b h t p", t=t, h=H)
        if gate is None
        else rearrange(gate, "b t (h p) -> b h t p", h=H)
    )
    taps = repeat(one, "b 1 d 1 -> b 1 d c", c=c) if taps is None else taps
    total = alpha.new_zeros(b, t, c)
    for shift in range(taps.shape[1]):
        weight = gates @ rearrange(taps[:, shift], "b (h p) c -> b h p c", h=H)
        total += weight.mul_(alpha[..., shift : shift + c]).sum(dim=1)
    return total / channels
