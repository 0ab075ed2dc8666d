"""Softmax attention as a matrix per head that mixes values: the probabilities are the coefficients ([6] section 2.2).

    o_i[d] = Σ_j p_ij[h(d)] v_j[d],   v = W_V x + b_V

The P channels of a head share its matrix. In p, pairs removed by the causal mask or as padding are exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Block, Places, Workspace, causal_blocks, padded_tile
from mambascope.operators.per_head import mean_over_heads, mix_heads


@dataclass(frozen=True, eq=False)
class SoftmaxAttention:
    """The probabilities of one attention layer, frozen at the values of a forward pass.

    Attributes:
        p: Probabilities per head; row i is the target, column j the source.
        skip: Zero for every channel: attention has no direct path.
    """

    p: Float[Tensor, "b H L L"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per head."""
        return self.p.shape[1]

    @property
    def state_size(self) -> int:
        """N = L: the state of attention is every token's key and value, so it grows with the text."""
        return self.p.shape[-1]

    @cached_property
    def causal(self) -> bool:
        """Whether no target depends on later tokens.

        Read from p: in transformers' eager attention, a decoder's row for a padded token with nothing to attend to is
        uniform over all tokens. A batch with such rows counts as not causal, and the rows are kept.
        """
        return not bool(self.p.triu(1).any())

    def channels(self, maps: Float[Tensor, "b H *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-head values: channel d belongs to head d // P."""
        return maps.repeat_interleave(self.skip.shape[0] // self.maps, dim=1)

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the blocks of the causal triangle, or the whole square when targets see later tokens."""
        length = self.p.shape[-1]
        if self.causal:
            yield from causal_blocks(length, taps, base=64)
        else:
            yield Block(slice(0, length), slice(0, length))

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return p v per channel: O(L²·D), not linear in L as for a scan."""
        return self._by_head(self.p, v)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ p per channel: O(L²·D)."""
        return self._by_head(self.p.transpose(-1, -2), v)

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of p over heads: O(L²·H)."""
        return torch.einsum("bi,bhij->bj", v, self.p) / self.maps

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return p for the given targets and sources.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Heads to return, all by default.
        """
        part = self.p[:, :, rows][..., columns]
        return part.clone() if maps is None else part[:, torch.as_tensor(maps, device=part.device)]

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
        """Return `mix` averaged over channels."""
        return mean_over_heads(self._padded_tile(block, taps), taps, gate, self.skip.shape[0])

    def _by_head(self, matrix: Tensor, v: Tensor) -> Float[Tensor, "b L D"]:
        mixed = matrix @ rearrange(v, "b L (h p) -> b h L p", h=self.maps)
        return rearrange(mixed, "b h L p -> b L (h p)")

    def _padded_tile(self, block: Block, taps: Tensor | None) -> Float[Tensor, "b H t reach"]:
        reach = 0 if taps is None else taps.shape[1] - 1
        return padded_tile(self.tile, block, reach, self.p.shape[-1])
