"""Linear attention whose memory decays, as an operator: one matrix-valued state per head.

    S_k = exp(fall_k) S_{k-1} + write_k v_kᵀ,     o_k = S_kᵀ read_k
    alpha_ij = (read_i · write_j) exp(Σ_{k=j+1..i} fall_k),   j ≤ i

The mLSTM (Beck et al., arXiv 2405.04517) and lightning attention (Qin et al., arXiv 2401.04658) are of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Block, Places, future
from mambascope.operators.decays import Fallen, decay_from
from mambascope.operators.per_head import PerHead
from mambascope.operators.recurrence import head_recurrence, one_hot, reverse_in_time


@dataclass(frozen=True, eq=False)
class DecayedAttention(PerHead):
    """The matrices of one decaying linear attention, frozen at the keys, queries and gates of a forward pass.

    Attributes:
        fall: Logarithm of the decay, at most 0.
        write: Keys, with everything that multiplies a token when it enters the state.
        read: Queries, with everything that multiplies what a target reads.
        skip: Zero per channel: a token reaches its own output through the state alone.
    """

    fall: Float[Tensor, "b L H"]
    write: Float[Tensor, "b L H N"]
    read: Float[Tensor, "b L H N"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per head."""
        return self.fall.shape[2]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.fall.shape[1]

    @property
    def state_size(self) -> int:
        """N, the width of a key."""
        return self.write.shape[-1]

    @cached_property
    def fallen(self) -> Fallen:
        """Σ_{k≤i} fall_k, in float64: (b, H, L)."""
        return Fallen.of(self.fall.double().transpose(1, 2), dim=-1)

    def reading(self, number: int) -> DecayedAttention:
        """Return the attention that reads one number of every channel's state, in place of the queries."""
        return replace(self, read=one_hot(self.read, number))

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, in chunks of matrix products: O(L·D·N)."""
        heads = rearrange(v, "b L (h p) -> b L h p", h=self.maps)
        return head_recurrence(heads, -self.fall, self._rate, self.write, self.read).flatten(2)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by the reversed recurrence: O(L·D·N)."""
        return self._backward(rearrange(v, "b L (h p) -> b L h p", h=self.maps)).flatten(2)

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels, with one channel per head: O(L·H·N)."""
        return self._backward(v[:, :, None, None].expand(-1, -1, self.maps, 1))[..., 0].mean(dim=-1)

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for some targets and sources, zero where the source comes after the target."""
        fallen, write, read = self.fallen, self.write[:, columns], self.read[:, rows]
        if maps is not None:
            fallen, write, read = fallen[:, list(maps)], write[:, :, list(maps)], read[:, :, list(maps)]
        exponent = fallen[..., rows, None] - fallen[..., None, columns]
        masked = future(Block(rows, columns), read.device)
        exponent = exponent if masked is None else exponent.masked_fill(masked, -torch.inf)
        return torch.einsum("bthn,bchn->bhtc", read, write) * decay_from(exponent.to(read.dtype))

    @property
    def _rate(self) -> Float[Tensor, " H"]:
        return -self.fall.new_ones(self.maps)

    def _backward(self, heads: Float[Tensor, "b L H P"]) -> Float[Tensor, "b L H P"]:
        step = reverse_in_time(-self.fall)
        return head_recurrence(heads.flip(1), step, self._rate, self.read.flip(1), self.write.flip(1)).flip(1)
