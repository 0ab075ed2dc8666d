"""The generalised delta rule (RWKV-7: Peng et al., arXiv 2503.14456) as a lower-triangular matrix per head.

What a token looks up in the state, where it adds what it found, and where it writes its value are three vectors:

    S_t = diag(w_t) S_{t-1} + erase_t (probe_tᵀ S_{t-1}) + write_t v_tᵀ ,     o_t = S_tᵀ read_t

The paper writes the state transposed, S_{t-1} (diag(w_t) + probe_t erase_tᵀ) + v_t write_tᵀ, with probe = -κ̂ (the
removal key), erase = a ⊙ κ̂ (a is the in-context learning rate) and write = k̃ (the replacement key). The gated delta
rule is the case probe = -w ⊙ k, erase = write = β k (`mambascope.operators.gated_delta`, which is cheaper).

In a chunk of C tokens that the state S enters, U holds what the tokens found. With Γ the decay, and strictly lower
A = Probe Eraseᵀ ∘ Γ, K = Probe Writeᵀ ∘ Γ, both up to the token before the target,

    (I - A) U = (Probe ∘ Γ_entering) S + K V .
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
class GeneralisedDeltaRule(ChunkedState):
    """The data-dependent coefficients of one generalised delta rule, frozen at the values of a forward pass.

    Attributes:
        read: Read vectors.
        probe: What a token looks up in the state before it, with its sign: minus the removal key.
        erase: Where it adds what it found.
        write: Where it writes its value: the replacement key.
        fall: log w ≤ 0, one per head (n = 1) or one per key channel (n = N).
        skip: Zero for every channel: a token reaches its own output through the state alone.
    """

    read: Float[Tensor, "b L H N"]
    probe: Float[Tensor, "b L H N"]
    erase: Float[Tensor, "b L H N"]
    write: Float[Tensor, "b L H N"]
    fall: Float[Tensor, "b L H n"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per head."""
        return self.write.shape[2]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.write.shape[1]

    @property
    def state_size(self) -> int:
        """N, the width of a key."""
        return self.write.shape[-1]

    @cached_property
    def chunks(self) -> StateChunks:
        """What every chunk of tokens does to the state."""
        return in_chunks(_solved, (self.read, self.probe, self.erase, self.write), self.fall)


def _solved(read: Tensor, probe: Tensor, erase: Tensor, write: Tensor, fall: Fallen) -> tuple[Tensor, ...]:
    """Return R, M, Z and Φ of some chunks; `fall` sums log decays since the chunk's start, in float64."""
    size, N = write.shape[-2:]
    exponents = fall.whole, fall.before().whole, fall[..., -1:, :] - fall
    entering, entering_before, leaving = (decay_from(part.to(read.dtype)) for part in exponents)
    known = torch.cat([probe * entering_before, products_before(probe, write, fall)], dim=-1)
    found = torch.linalg.solve_triangular(-products_before(probe, erase, fall), known, upper=False, unitriangular=True)
    from_state, from_values = found.split([N, size], dim=-1)
    seen, end = decayed_products(read, erase, fall), (erase * leaving).transpose(-1, -2)
    whole = entering[..., -1, :].expand(write[..., 0, :].shape)
    return (
        read * entering + seen @ from_state,
        (decayed_products(read, write, fall) + seen @ from_values).tril(),
        write * leaving + (end @ from_values).transpose(-1, -2),
        torch.diag_embed(whole) + end @ from_state,
    )
