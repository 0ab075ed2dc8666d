"""The gated delta rule as a lower-triangular matrix per head, never held whole (Gated DeltaNet [8], Kimi Linear [9]).

Each token first removes from the state what its key held, then writes its value there:

    S_t = (I - β_t k_t k_tᵀ) diag(a_t) S_{t-1} + β_t k_t v_tᵀ ,     o_t = S_tᵀ q_t

With q, k, β and a frozen, o = M v exactly, where M is one triangular solve (a per head):

    M = (tril(Q Kᵀ) ∘ Γ) · (I + tril(diag(β) K Kᵀ ∘ Γ, -1))⁻¹ · diag(β) ,     Γ_ij = Π_{t=j+1}^i a_t

The matrix is cut into chunks of tokens (`mambascope.operators.delta_chunks`); an entry far from the diagonal is a row's
read vector, pulled back chunk by chunk, times a source's write vector, pushed forward chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Places, Workspace, count
from mambascope.operators.delta_chunks import DeltaChunks, delta_chunks
from mambascope.operators.per_head import PerHead
from mambascope.operators.recurrence import one_hot

#: Fewer targets than this are pulled back on their own, without what other tiles could use.
FEW = 8


@dataclass(frozen=True, eq=False)
class GatedDeltaRule(PerHead):
    """The data-dependent coefficients of one gated delta rule, frozen at the values of a forward pass.

    Attributes:
        q: Read vectors, normalised and scaled; consecutive value heads share those of a group.
        k: Keys, normalised.
        beta: β, how much of a key's old value is replaced by the new one.
        decay: log a ≤ 0, one per head (n = 1) or one per key channel (n = N).
        skip: Zero for every channel: a token reaches its own output through the state alone.
    """

    q: Float[Tensor, "b L G N"]
    k: Float[Tensor, "b L G N"]
    beta: Float[Tensor, "b L H"]
    decay: Float[Tensor, "b L H n"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per value head."""
        return self.beta.shape[2]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.beta.shape[1]

    @property
    def state_size(self) -> int:
        """N, the state size per channel."""
        return self.k.shape[-1]

    @cached_property
    def chunks(self) -> DeltaChunks:
        """What every chunk of tokens does to the state."""
        return delta_chunks(self.q, self.k, self.beta, self.decay)

    def reading(self, number: int) -> GatedDeltaRule:
        """Return the rule that reads one number of every channel's state, in place of q."""
        return replace(self, q=one_hot(self.q, number))

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return M v per channel, in chunks of matrix products: O(L·D·N)."""
        return self._from_chunks(self.chunks.run(self._in_chunks(v)))

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ M per channel, by the reversed recurrence: O(L·D·N)."""
        return self._from_chunks(self.chunks.reversed().run(self._in_chunks(v).flip(2)).flip(2))

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of M over heads, by the reversed recurrence with one channel per head: O(L·H·N)."""
        return self.apply_transposed(v[..., None].expand(-1, -1, self.maps)).mean(dim=-1)

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return M for the given targets and sources; future pairs are exactly zero.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Heads to return, all by default.
        """
        heads = slice(None) if maps is None else torch.as_tensor(maps, device=self.k.device)
        if not isinstance(rows, slice) or not isinstance(columns, slice) or count(rows) < FEW:
            return self._near_tile(rows, columns, heads)
        edge = min(columns.stop, max(columns.start, rows.start // self.chunks.size * self.chunks.size))
        near = self._near_tile(rows, slice(edge, columns.stop), heads)
        if edge == columns.start:
            return near
        return torch.cat([self._far_tile(rows, slice(columns.start, edge), heads), near], dim=-1)

    def _near_tile(self, rows: Places, columns: Places, heads: slice | Tensor) -> Float[Tensor, "b M t c"]:
        """Return M for any targets and sources; what targets read is pulled back chunk by chunk, O(t·N·(c + N))."""
        chunks = self.chunks.of_heads(heads)
        out = chunks.read.new_zeros(*chunks.read.shape[:2], count(rows), count(columns))
        if not out.numel():
            return out
        flow = chunks.read.new_zeros(*out.shape[:3], self.state_size)
        for number in range(_last(rows) // chunks.size, _first(columns) // chunks.size - 1, -1):
            targets, own_rows = _within(rows, number, chunks.size)
            sources, own_columns = _within(columns, number, chunks.size)
            part = flow @ chunks.write[:, :, number, own_columns].transpose(-1, -2)
            part[:, :, targets] += chunks.inside[:, :, number, own_rows][..., own_columns]
            out[..., sources] = part
            flow = flow @ chunks.carry[:, :, number]
            flow[:, :, targets] = chunks.read[:, :, number, own_rows]
        return out

    def _far_tile(self, rows: slice, columns: slice, heads: slice | Tensor) -> Float[Tensor, "b M t c"]:
        """Return M for targets in later chunks than all sources: what they read times what those have written.

        They meet at the start of a chunk between them, the one whose number has the most factors of two. Neighbouring
        tiles meet at the same place, so what their targets read there and what their sources have written is kept.
        """
        size = self.chunks.size
        first, last = (columns.stop - 1) // size + 1, rows.start // size
        step = max(2**power for power in range(last.bit_length()) if last >> power << power >= first)
        meeting = last // step * step
        asked = slice(meeting * size, max(rows.stop, min(self.length, (meeting + step) * size)))
        read = self._kept.keep("read", (meeting, asked.stop), lambda: self._read(asked, meeting))
        own = (meeting, columns.start, columns.stop)
        written = self._kept.keep("written", own, lambda: self._written(columns, meeting))
        read = read[:, heads, rows.start - asked.start : rows.stop - asked.start]
        return read @ written[:, heads].transpose(-1, -2)

    @cached_property
    def _kept(self) -> Workspace:
        """What the last far tile was made of."""
        return Workspace()

    def _read(self, rows: slice, meeting: int) -> Float[Tensor, "b H t N"]:
        """Return what targets read from the state at the start of a chunk that is not after theirs."""
        chunks = self.chunks
        flow = chunks.read.new_zeros(*chunks.read.shape[:2], count(rows), self.state_size)
        for number in range(_last(rows) // chunks.size, meeting - 1, -1):
            targets, own = _within(rows, number, chunks.size)
            after = slice(max(0, (number + 1) * chunks.size - rows.start), None)  # the others have not begun
            flow[:, :, after] = flow[:, :, after] @ chunks.carry[:, :, number]
            flow[:, :, targets] = chunks.read[:, :, number, own]
        return flow

    def _written(self, columns: slice, meeting: int) -> Float[Tensor, "b H c N"]:
        """Return what sources have written to the state at the start of a chunk after theirs."""
        chunks = self.chunks
        flow = chunks.read.new_zeros(*chunks.read.shape[:2], count(columns), self.state_size)
        for number in range(_first(columns) // chunks.size, meeting):
            sources, own = _within(columns, number, chunks.size)
            before = slice(max(0, number * chunks.size - columns.start))  # the others have not begun
            flow[:, :, before] = flow[:, :, before] @ chunks.carry[:, :, number].transpose(-1, -2)
            flow[:, :, sources] = chunks.write[:, :, number, own]
        return flow

    def _in_chunks(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b H c C P"]:
        """Return values per head and chunk, filled up with zeros."""
        filled = F.pad(v, (0, 0, 0, -self.length % self.chunks.size))
        return rearrange(filled, "b (c s) (h p) -> b h c s p", s=self.chunks.size, h=self.maps)

    def _from_chunks(self, o: Float[Tensor, "b H c C P"]) -> Float[Tensor, "b L D"]:
        return rearrange(o, "b h c s p -> b (c s) (h p)")[:, : self.length]


def _first(places: Places) -> int:
    return int(places.min()) if isinstance(places, Tensor) else places.start


def _last(places: Places) -> int:
    return int(places.max()) if isinstance(places, Tensor) else places.stop - 1


def _within(places: Places, number: int, size: int) -> tuple[Places, Places]:
    """Return where the positions in one chunk stand among `places`, and where within the chunk."""
    start = number * size
    if isinstance(places, Tensor):
        among = ((places >= start) & (places < start + size)).nonzero()[:, 0]
        return among, places[among] - start
    first, last = max(places.start, start), min(places.stop, start + size)
    last = max(first, last)
    return slice(first - places.start, last - places.start), slice(first - start, last - start)
