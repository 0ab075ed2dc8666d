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

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.recurrence import CHUNK, decay_from

#: Tokens among which decays per channel are taken pair by pair; further apart, they split into two factors.
PAIRWISE = 8

#: Numbers that the decays of one group of chunks may hold.
GROUP_ELEMENTS = 1 << 23


@dataclass(frozen=True, eq=False)
class DeltaChunks:
    """What every chunk does: O = R S + M V and S' = Φ S + Zᵀ V; C tokens per chunk, the last filled up with zeros.

    Attributes:
        read: R.
        inside: M among the tokens of one chunk, lower-triangular.
        write: Z.
        carry: Φ.
    """

    read: Float[Tensor, "b H c C N"]
    inside: Float[Tensor, "b H c C C"]
    write: Float[Tensor, "b H c C N"]
    carry: Float[Tensor, "b H c N N"]

    __repr__ = brief

    @property
    def size(self) -> int:
        """C, the number of tokens in a chunk."""
        return self.inside.shape[-1]

    def of_heads(self, heads: slice | Tensor) -> DeltaChunks:
        """Return the same of some heads."""
        return DeltaChunks(*(part[:, heads] for part in (self.read, self.inside, self.write, self.carry)))

    def reversed(self) -> DeltaChunks:
        """Return the transposed recurrence, which runs over the chunks from the last to the first."""
        parts = (self.write, self.inside.transpose(-1, -2), self.read, self.carry.transpose(-1, -2))
        return DeltaChunks(*(part.flip(2) for part in parts))

    def run(self, v: Float[Tensor, "b H c C P"]) -> Float[Tensor, "b H c C P"]:
        """Return O of every chunk, by one pass over the chunks."""
        written = self.write.transpose(-1, -2) @ v
        state, entering = torch.zeros_like(written[:, :, 0]), []
        for number in range(v.shape[2]):
            entering.append(state)
            state = self.carry[:, :, number] @ state + written[:, :, number]
        return self.read @ torch.stack(entering, dim=2) + self.inside @ v


def delta_chunks(
    q: Float[Tensor, "b L G N"],
    k: Float[Tensor, "b L G N"],
    beta: Float[Tensor, "b L H"],
    decay: Float[Tensor, "b L H n"],
) -> DeltaChunks:
    """Return what every chunk of tokens does, differentiable in all arguments; time O(L·H·N·(C + N)).

    Args:
        q: Read vectors; consecutive heads share those of a group.
        k: Keys.
        beta: How much of a key's old value is replaced.
        decay: log a ≤ 0: n is 1 for one decay per head, or N for one per key channel.
    """
    (b, L, H, n), N = decay.shape, k.shape[-1]
    size = min(CHUNK, max(L, 1))
    short = -L % size
    by_head = (rearrange(part, "b (c s) g n -> b g c s n", s=size) for part in (_filled(q, short), _filled(k, short)))
    q, k = (part.repeat_interleave(H // part.shape[1], dim=1) for part in by_head)
    beta = rearrange(_filled(beta, short), "b (c s) h -> b h c s 1", s=size)
    fall = rearrange(_filled(decay, short), "b (c s) h n -> b h c s n", s=size).double().cumsum(dim=-2)
    pairs = b * H * size * (size if n == 1 else PAIRWISE * N)
    group = max(1, GROUP_ELEMENTS // pairs)
    cut = (part.split(group, dim=2) for part in (q, k, beta, fall))
    found = [_solved(*parts) for parts in zip(*cut, strict=True)]
    return DeltaChunks(*(torch.cat(parts, dim=2) for parts in zip(*found, strict=True)))


def _solved(q: Tensor, k: Tensor, beta: Tensor, fall: Float[Tensor, "b H c C n"]) -> tuple[Tensor, ...]:
    """Return R, M, Z and Φ of some chunks; `fall` is the log decay since the chunk's start, in float64."""
    dtype, size = k.dtype, k.shape[-2]
    entering, leaving = (decay_from(part.to(dtype)) for part in (fall, fall[..., -1:, :] - fall))
    whole = entering[..., -1, :].expand(k[..., 0, :].shape)
    removed = _decayed_products(beta * k, k, fall).tril(-1)
    known = torch.cat([beta * k * entering, torch.diag_embed(beta[..., 0])], dim=-1)
    solved = torch.linalg.solve_triangular(removed, known, upper=False, unitriangular=True)
    W, B = solved.split([k.shape[-1], size], dim=-1)
    seen, end = _decayed_products(q, k, fall), k * leaving
    read = q * entering - seen @ W
    carry = torch.diag_embed(whole) - end.transpose(-1, -2) @ W
    return read, (seen @ B).tril(), B.transpose(-1, -2) @ end, carry


def _decayed_products(read: Tensor, write: Tensor, fall: Float[Tensor, "*c C n"]) -> Float[Tensor, "*c C C"]:
    """Return Σ_n read_i[n] write_j[n] exp(fall_i[n] - fall_j[n]) for j ≤ i, zero for later j."""
    size = fall.shape[-2]
    if fall.shape[-1] > 1 and size > PAIRWISE:
        return _by_halves(read, write, fall)
    future = torch.ones(size, size, dtype=torch.bool, device=fall.device).triu(1)[..., None]
    between = (fall[..., :, None, :] - fall[..., None, :, :]).masked_fill(future, -torch.inf)
    decay = decay_from(between.to(read.dtype))
    if fall.shape[-1] == 1:
        return (read @ write.transpose(-1, -2)) * decay[..., 0]
    return torch.einsum("...in,...ijn,...jn->...ij", read, decay, write)


def _by_halves(read: Tensor, write: Tensor, fall: Tensor) -> Tensor:
    """Return the products of decays per channel: from the first half to the second they split at the middle."""
    half, dtype = fall.shape[-2] // 2, read.dtype
    middle = fall[..., half - 1 : half, :]
    to_middle = decay_from((middle - fall[..., :half, :]).to(dtype), factors=2)
    from_middle = decay_from((fall[..., half:, :] - middle).to(dtype), factors=2)
    across = (read[..., half:, :] * from_middle) @ (write[..., :half, :] * to_middle).transpose(-1, -2)
    first, last = (
        _decayed_products(read[..., part, :], write[..., part, :], fall[..., part, :])
        for part in (slice(half), slice(half, None))
    )
    above = torch.cat([first, torch.zeros_like(across).transpose(-1, -2)], dim=-1)
    return torch.cat([above, torch.cat([across, last], dim=-1)], dim=-2)


def _filled(tensor: Float[Tensor, "b L *c"], count: int) -> Float[Tensor, "b M *c"]:
    """Append `count` tokens that read and write nothing."""
    return F.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, count]) if count else tensor
