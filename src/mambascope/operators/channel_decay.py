"""Linear attention whose memory decays by key channel, as an operator: one matrix-valued state per head.

    S_k = diag(exp(fall_k)) S_{k-1} + write_k v_kᵀ

A target reads the state after its own token has been written (GLA: Yang et al., arXiv 2312.06635; HGRN2: Qin et al.,
arXiv 2404.07904), or the state before it, and its own token by a weight of its own (RWKV-6: Peng et al., arXiv
2404.05892):

    alpha_ij = Σ_n read_i[n] exp(Σ_{k=j+1..i} fall_k[n]) write_j[n]              for j ≤ i, or
    alpha_ij = Σ_n read_i[n] exp(Σ_{k=j+1..i-1} fall_k[n]) write_j[n] for j < i,   alpha_ii = own_i

With one decay for all channels of a head, `mambascope.operators.decayed_attention` is the cheaper form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.chunked_state import ChunkedState, StateChunks, in_chunks
from mambascope.operators.decayed_products import decayed_products, products_before
from mambascope.operators.decays import Fallen, decay_from


@dataclass(frozen=True, eq=False)
class ChannelDecay(ChunkedState):
    """The matrices of one linear attention with a decay per key channel, frozen at the gates of a forward pass.

    Attributes:
        fall: Logarithm of the decay, at most 0.
        write: Keys, with everything that multiplies a token when it enters the state.
        read: Queries, with everything that multiplies what a target reads.
        skip: Zero per channel: a token reaches its own output through the state alone.
        own: What a target multiplies its own value by, where it reads the state before its token; None where after.
    """

    fall: Float[Tensor, "b L H N"]
    write: Float[Tensor, "b L H N"]
    read: Float[Tensor, "b L H N"]
    skip: Float[Tensor, " D"]
    own: Float[Tensor, "b L H"] | None = None

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
    def chunks(self) -> StateChunks:
        """What every chunk of tokens does to the state."""
        if self.own is None:
            return in_chunks(_read_after, (self.read, self.write), self.fall)
        return in_chunks(_read_before, (self.read, self.write, self.own[..., None]), self.fall)


def _read_after(read: Tensor, write: Tensor, fall: Fallen) -> tuple[Tensor, ...]:
    """Return R, M, Z and Φ of some chunks; `fall` sums log decays since the chunk's start, in float64."""
    entering = decay_from(fall.whole.to(read.dtype))
    return read * entering, decayed_products(read, write, fall), *_written(write, fall)


def _read_before(read: Tensor, write: Tensor, own: Tensor, fall: Fallen) -> tuple[Tensor, ...]:
    """Return the same where a token decays the state only after it has been read."""
    entering = decay_from(fall.before().whole.to(read.dtype))
    return read * entering, products_before(read, write, fall) + torch.diag_embed(own[..., 0]), *_written(write, fall)


def _written(write: Tensor, fall: Fallen) -> tuple[Tensor, Tensor]:
    """Return Z and Φ: what is left of the tokens at the chunk's end, and of the state that entered."""
    leaving, whole = (decay_from(part.to(write.dtype)) for part in (fall[..., -1:, :] - fall, fall[..., -1, :].whole))
    return write * leaving, torch.diag_embed(whole)
