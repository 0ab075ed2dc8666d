"""Operators whose state passes from chunk to chunk of the tokens: products and tiles from what each chunk does to it.

The state S (N, P) of a head is a matrix that its tokens change linearly. Over a chunk of C tokens, with V their values,
S the state that enters and S' the one that leaves,

    O = R S + M V ,     S' = Φ S + Zᵀ V

An operator says R, M, Z and Φ of every chunk. An entry of its matrix far from the diagonal is a row's read vector,
pulled back chunk by chunk, times a source's write vector, pushed forward chunk by chunk.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Places, Workspace, count
from mambascope.operators.decayed_products import PAIRWISE
from mambascope.operators.decays import Fallen
from mambascope.operators.per_head import PerHead
from mambascope.operators.recurrence import CHUNK

#: Fewer targets than this are pulled back on their own, without what other tiles could use.
FEW = 8

#: Numbers that the decays of one group of chunks may hold.
GROUP_ELEMENTS = 1 << 23


@dataclass(frozen=True, eq=False)
class StateChunks:
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

    def of_heads(self, heads: slice | Tensor) -> StateChunks:
        """Return the same of some heads."""
        return StateChunks(*(part[:, heads] for part in (self.read, self.inside, self.write, self.carry)))

    def reversed(self) -> StateChunks:
        """Return the transposed recurrence, which runs over the chunks from the last to the first."""
        parts = (self.write, self.inside.transpose(-1, -2), self.read, self.carry.transpose(-1, -2))
        return StateChunks(*(part.flip(2) for part in parts))

    def run(
        self, v: Float[Tensor, "b H c C P"], before: Float[Tensor, "b H N P"] | None = None
    ) -> tuple[Float[Tensor, "b H c C P"], Float[Tensor, "b H N P"]]:
        """Return O of every chunk, by one pass over the chunks from a state, by default zero, and the last state."""
        written = self.write.transpose(-1, -2) @ v
        state, entering = torch.zeros_like(written[:, :, 0]) if before is None else before, []
        for number in range(v.shape[2]):
            entering.append(state)
            state = self.carry[:, :, number] @ state + written[:, :, number]
        return self.read @ torch.stack(entering, dim=2) + self.inside @ v, state


def in_chunks(
    solve: Callable[..., tuple[Tensor, ...]], parts: Sequence[Float[Tensor, "b L H _"]], fall: Float[Tensor, "b L H n"]
) -> StateChunks:
    """Return what every chunk of tokens does, a group of chunks at a time, so that few pairs' decays are held.

    Args:
        solve: Returns R, M, Z and Φ of some chunks, from their parts and their decays, each (b, H, c, C, s).
        parts: What tokens read and write, the first of them N wide; tokens of zeros must read and write nothing.
        fall: Logarithm of the decay, at most 0: n is 1 for one decay per head, or N for one per key channel. `solve`
            is given its sums since the chunk's start, in float64, as `Fallen`.
    """
    (b, L, H, n), N = fall.shape, parts[0].shape[-1]
    size = min(CHUNK, max(L, 1))
    cut = [_cut(part, size) for part in parts]
    fallen = Fallen.of(_cut(fall, size).double(), dim=-2)
    pairs = b * H * size * (size if n == 1 else PAIRWISE * N)
    group = max(1, GROUP_ELEMENTS // max(pairs, 1))
    groups = zip(*(part.split(group, dim=2) for part in cut), fallen.split(group, dim=2), strict=True)
    found = [solve(*some) for some in groups]
    return StateChunks(*(torch.cat(parts, dim=2) for parts in zip(*found, strict=True)))


class ChunkedState(PerHead):
    """A `PerHead` operator from `chunks`; subclasses also say `maps` and `length`, and `state_size`: N."""

    @property
    @abstractmethod
    def state_size(self) -> int:
        """N, the state size per channel."""

    @property
    @abstractmethod
    def chunks(self) -> StateChunks:
        """What every chunk of tokens does to the state."""

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, in chunks of matrix products: O(L·D·N)."""
        return self.forwards(v)[0]

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by the reversed recurrence: O(L·D·N)."""
        return self.backwards(v)[0]

    def forwards(
        self, v: Float[Tensor, "b L D"], before: Float[Tensor, "b H N P"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b H N P"]]:
        """Return alpha v and what a state before the text gives, and the state after it; see `Carried`."""
        o, after = self.chunks.run(self._in_chunks(v), before)
        return self._from_chunks(o), after

    def backwards(
        self, v: Float[Tensor, "b L D"], after: Float[Tensor, "b H N P"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b H N P"]]:
        """Return vᵀ alpha and what a gradient at the state after the text gives, and that before it; see `Carried`."""
        flow, before = self.chunks.reversed().run(self._in_chunks(v).flip(2), after)
        return self._from_chunks(flow.flip(2)), before

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over heads, by the reversed recurrence, one channel per head: O(L·H·N)."""
        return self.apply_transposed(v[..., None].expand(-1, -1, self.maps)).mean(dim=-1)

    def written(self, sources: slice) -> Float[Tensor, "b H c N"]:
        """Return what some sources have written to the state as the last token leaves it, per unit of their values."""
        return self._written(sources, self.chunks.read.shape[2])

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for the given targets and sources; future pairs are exactly zero.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Heads to return, all by default.
        """
        heads = slice(None) if maps is None else torch.as_tensor(maps, device=self.skip.device)
        if not isinstance(rows, slice) or not isinstance(columns, slice) or count(rows) < FEW:
            return self._near_tile(rows, columns, heads)
        edge = min(columns.stop, max(columns.start, rows.start // self.chunks.size * self.chunks.size))
        near = self._near_tile(rows, slice(edge, columns.stop), heads)
        if edge == columns.start:
            return near
        return torch.cat([self._far_tile(rows, slice(columns.start, edge), heads), near], dim=-1)

    def _near_tile(self, rows: Places, columns: Places, heads: slice | Tensor) -> Float[Tensor, "b M t c"]:
        """Return alpha for any targets and sources; what targets read is pulled back chunk by chunk, O(t·N·(c + N))."""
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
        """Return alpha for targets in later chunks than all sources: what they read times what those have written.

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


def _cut(tensor: Float[Tensor, "b L H n"], size: int) -> Float[Tensor, "b H c C n"]:
    """Return a tensor in chunks, filled up with tokens of zeros."""
    filled = F.pad(tensor, (0, 0, 0, 0, 0, -tensor.shape[1] % size))
    return rearrange(filled, "b (c s) h n -> b h c s n", s=size)


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
