"""The gated delta rule in chunks: what one chunk of tokens does to the state that enters it ([7] section 3, [8]).

    S_t = (I - β_t k_t k_tᵀ) diag(a_t) S_{t-1} + β_t k_t v_tᵀ ,     o_t = S_tᵀ q_t

with the decay a_t one number per head, or one per key channel ([9]). Over a chunk of C tokens, with V their values and
S the state that enters,

    O = R S + M V ,     S' = Φ S + Zᵀ V

The four follow from one triangular system. With Γ the decay from a source (or from the entering state) to a target,
A = strictly lower part of diag(β) K Kᵀ ∘ Γ, and P = lower part of Q Kᵀ ∘ Γ:

    B = (I + A)⁻¹ diag(β) ,  W = (I + A)⁻¹ diag(β) (K ∘ Γ_entering)
    M = P B ,   R = Q ∘ Γ_entering - P W ,   Z = Bᵀ (K ∘ Γ_leaving) ,   Φ = diag(Γ_whole) - (K ∘ Γ_leaving)ᵀ W

All exponents are ≤ 0, and for keys of length at most 1 and β ≤ 2 no Φ is longer than 1, so that products of many are
stable.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.operators.chunked_state import StateChunks, in_chunks
from mambascope.operators.decayed_products import decayed_products
from mambascope.operators.decays import Fallen, decay_from


def delta_chunks(
    q: Float[Tensor, "b L G N"],
    k: Float[Tensor, "b L G N"],
    beta: Float[Tensor, "b L H"],
    decay: Float[Tensor, "b L H n"],
) -> StateChunks:
    """Return what every chunk of tokens does, differentiable in all arguments; time O(L·H·N·(C + N)).

    Args:
        q: Read vectors; consecutive heads share those of a group.
        k: Keys.
        beta: How much of a key's old value is replaced.
        decay: log a ≤ 0: n is 1 for one decay per head, or N for one per key channel.
    """
    q, k = (part.repeat_interleave(beta.shape[2] // part.shape[2], dim=2) for part in (q, k))
    return in_chunks(_solved, (q, k, beta[..., None]), decay)


def _solved(q: Tensor, k: Tensor, beta: Tensor, fall: Fallen) -> tuple[Tensor, ...]:
    """Return R, M, Z and Φ of some chunks; `fall` sums log decays since the chunk's start, in float64."""
    dtype, size = k.dtype, k.shape[-2]
    entering, leaving = (decay_from(part.to(dtype)) for part in (fall.whole, fall[..., -1:, :] - fall))
    whole = entering[..., -1, :].expand(k[..., 0, :].shape)
    removed = decayed_products(beta * k, k, fall).tril(-1)
    known = torch.cat([beta * k * entering, torch.diag_embed(beta[..., 0])], dim=-1)
    solved = torch.linalg.solve_triangular(removed, known, upper=False, unitriangular=True)
    W, B = solved.split([k.shape[-1], size], dim=-1)
    seen, end = decayed_products(q, k, fall), k * leaving
    read = q * entering - seen @ W
    carry = torch.diag_embed(whole) - end.transpose(-1, -2) @ W
    return read, (seen @ B).tril(), B.transpose(-1, -2) @ end, carry
