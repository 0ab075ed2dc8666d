"""The mean over channels of Mamba-1's matrices for a run of tokens: one matrix product, in effect ([3] eq. 14).

    M_ij = 1/D Σ_d g_i[d] Σ_{k=j..i} Σ_n C_i[n] exp(A[d,n] (S_i - S_k)[d]) Δ_k[d] B_k[n] taps_{j,k-j}[d],   j ≤ i

Two neighbouring blocks of tokens make one of twice the size. Their pairs are one product of inner size D·N: what the
right block's targets read of the state that the left one has left behind, times what the left block's sources have
written to it. To start with, blocks are single tokens, whose targets read g_i C_i exp(A Δ_i), and whose sources have
written Δ_k B_k taps. When two blocks become one, targets of the right block lie further from its start, and sources of
the left one further from its end, by all that the other block decays: a factor per channel and state for the whole
block. So there is one exponential per token, channel and state in all, and a multiplication for every level.

Channels are taken in groups, so that what all tokens of a group read and write stays in the cache through all levels.

Through the convolution a token is written to by the K-1 sources before it, too. Those that lie before its block are its
*edge*: they become sources of the left block when the two are merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Workspace
from mambascope.operators.decays import NEGLIGIBLE, decay_in_place

#: Numbers that the tokens of a run read in one group of channels: they, and what is written, stay in the cache.
GROUP_ELEMENTS = 1 << 19
#: Blocks up to this size are multiplied many at a time.
BATCHED = 16
#: Blocks up to this size decay by the product of two smaller ones; the decay of larger ones has its own exponential,
#: since rounding errors of factors would add up.
MULTIPLIED = 4
#: Logarithm of the share of a run's largest factor below which a factor becomes zero: less than a decay that is
#: negligible by itself (`NEGLIGIBLE`). Its product with such a decay, or with another factor, is no denormal number.
FAINT = {torch.float32: -38.0, torch.float64: -345.0}


@dataclass(frozen=True, eq=False)
class Run:
    """The coefficients of a scan for one text's tokens one after the other, padded by tokens that do nothing.

    Attributes:
        dt: Δ.
        rates: A, finite.
        B: Write vectors.
        C: Read vectors.
        written: What position k is written to by source k - K + 1 first, by source k last: Δ times the taps.
        gate: A factor per target, or None.
        length: How many tokens come before the padding.
    """

    dt: Float[Tensor, "R D"]
    rates: Float[Tensor, "D N"]
    B: Float[Tensor, "R N"]
    C: Float[Tensor, "R N"]
    written: Float[Tensor, "R K D"]
    gate: Float[Tensor, "R D"] | None
    length: int

    __repr__ = brief

    @classmethod
    def of(
        cls,
        dt: Float[Tensor, "r D"],
        rates: Float[Tensor, "D N"],
        B: Float[Tensor, "r N"],
        C: Float[Tensor, "r N"],
        taps: Float[Tensor, "K D r"] | None,
        gate: Float[Tensor, "r D"] | None,
    ) -> Run:
        """Return the run of these tokens; taps that lead beyond them are not read."""
        length = len(dt)
        short = -length % min(2 * BATCHED, 1 << (length - 1).bit_length())
        dt, B, C = (_lengthened(part, short) for part in (dt, B, C))
        gate = None if gate is None else _lengthened(gate, short)
        if taps is None:
            return cls(dt, rates, B, C, dt[:, None], gate, length)
        written = dt.new_zeros(len(dt), len(taps), dt.shape[1])
        for shift, tap in enumerate(taps[:length]):
            torch.mul(tap[:, : length - shift].t(), dt[shift:length], out=written[shift:length, -1 - shift])
        return cls(dt, rates, B, C, written, gate, length)

    @property
    def reach(self) -> int:
        """K - 1, the sources before a token that write to it."""
        return self.written.shape[1] - 1


def mean_of_run(run: Run, workspace: Workspace) -> Float[Tensor, "r r"]:
    """Return the mean over channels for all pairs of a run; it lives in the workspace, zero at future pairs."""
    (size, channels), reach, levels = run.dt.shape, run.reach, _levels(run)
    out = workspace.take("run", (size, reach + size), run.dt).zero_()
    _add_own(out, run)
    sums = {
        level: [
            workspace.take(f"{name} {level}", (size // (2 * level), level, columns), run.dt).zero_()
            for name, columns in (("edge", reach), ("near", level))
        ]
        for level in levels
        if level <= BATCHED
    }
    falls, faint = _falls(run), _faint(run)
    width = -(-channels // -(-channels * size * run.rates.shape[1] // GROUP_ELEMENTS))
    for first in range(0, channels, width):
        group = _Group.of(run, slice(first, first + width), falls, faint, workspace)
        for level in levels:
            if level <= BATCHED:
                (pairs,) = group.pairs(level)
                for total, sources in zip(sums[level], (pairs.left_edge, pairs.written), strict=True):
                    if sources.shape[1]:
                        total.baddbmm_(pairs.read, sources.transpose(1, 2))
            else:
                _add_products(out, group, level)
            if 2 * level < run.length:
                group.merge(level)
    for level, (edge, near) in sums.items():
        _add_batched(out, edge, level, 0)
        _add_batched(out, near, level, reach)
    return out[: run.length, reach : reach + run.length].div_(channels)


def _lengthened(values: Float[Tensor, "r c"], short: int) -> Float[Tensor, "R c"]:
    """Return values of tokens with zeros after the last."""
    return F.pad(values, (0, 0, 0, short)) if short else values


def _levels(run: Run) -> list[int]:
    """Return the sizes of the blocks that are multiplied with their neighbours."""
    return [1 << power for power in range((run.length - 1).bit_length())]


def _add_own(out: Float[Tensor, "R W"], run: Run) -> None:
    """Add what targets read of what is written to their own positions, where nothing has decayed."""
    read = (run.C * run.B).sum(dim=-1, keepdim=True)
    weight = read.expand_as(run.dt) if run.gate is None else run.gate * read
    own = (run.written @ weight[..., None])[..., 0]
    for place in range(run.reach + 1):
        out.diagonal(place)[: len(own)].add_(own[:, place])


def _falls(run: Run) -> dict[int, Float[Tensor, "blocks D"]]:
    """Return the sum of Δ over every block, by the size of the blocks, summed in float64."""
    total, falls = run.dt.double(), {}
    for level in _levels(run):
        falls[level] = total.to(run.dt.dtype)
        total = _lengthened(total, len(total) % 2).unflatten(0, (-1, 2)).sum(dim=1)
    return falls


def _faint(run: Run) -> tuple[float, float]:
    """Return below which size what is read, and what is written, is set to zero; 0 where that is not a number."""
    share = math.exp(FAINT[run.dt.dtype])
    read, write = run.C.abs().amax(dim=1), run.B.abs().amax(dim=1) * run.written.abs().amax(dim=(1, 2))
    if run.gate is not None:
        read *= run.gate.abs().amax(dim=1)
    largest = (float(part.max()) for part in (read, write))
    first, second = (share * size if math.isfinite(size) else 0.0 for size in largest)
    return first, second


@dataclass(frozen=True, eq=False)
class _Group:
    """What the tokens of a run read and write in some channels, each as seen from the edge of its block.

    Attributes:
        read: Of every target, from its block's start on.
        written: Of every source, to its block's end.
        edges: Of the sources before a block, to its end; at the place of the block's first token.
        decays: What a whole block leaves of a state, by the size of the blocks.
        faint: Largest value that is set to zero of what is read, and of what is written.
    """

    read: Float[Tensor, "R S"]
    written: Float[Tensor, "R S"]
    edges: Float[Tensor, "R e S"]
    decays: dict[int, Float[Tensor, "blocks S"]]
    faint: tuple[float, float]

    __repr__ = brief

    @classmethod
    def of(
        cls,
        run: Run,
        channels: slice,
        falls: dict[int, Float[Tensor, "blocks D"]],
        faint: tuple[float, float],
        workspace: Workspace,
    ) -> _Group:
        """Return what single tokens read and write."""
        rates = run.rates[channels].t().contiguous()
        size, shape = len(run.dt), rates.shape
        decay = decay_in_place(_outer(run.dt[:, channels], rates, "decay", workspace), factors=2)
        read = torch.mul(decay, run.C[..., None], out=workspace.take("read", (size, *shape), run.dt))
        if run.gate is not None:
            read *= run.gate[:, None, channels]
        everything = run.written[..., None, channels]
        written = torch.mul(everything[:, -1], run.B[..., None], out=workspace.take("written", (size, *shape), run.dt))
        edges = workspace.take("edges", (size, run.reach, *shape), run.dt)
        torch.mul(everything[:, :-1], run.B[:, None, :, None], out=edges)
        decays = {1: decay.flatten(1)}
        for level in _levels(run)[1:]:
            if level <= MULTIPLIED:
                decays[level] = _doubled(decays[level // 2], f"decay {level}", workspace)
            else:
                fall = _outer(falls[level][:, channels], rates, f"decay {level}", workspace)
                decays[level] = decay_in_place(fall, factors=2).flatten(1)
        return cls(read.flatten(1), written.flatten(1), edges.flatten(2), decays, faint)

    def pairs(self, level: int) -> Iterator[_Pairs]:
        """Yield the pairs of neighbouring blocks of a size: the whole ones, and one whose right block is shorter."""
        size = len(self.read)
        count, rest = divmod(size, 2 * level)
        if count:
            yield self._pairs(0, count, 2 * level, level)
        if rest > level:
            yield self._pairs(size - rest, 1, rest, level)

    def _pairs(self, first: int, count: int, size: int, level: int) -> _Pairs:
        tokens, blocks = slice(first, first + count * size), slice(first // level, first // level + 2 * count)
        read, written, edges = (
            part[tokens].unflatten(0, (count, size)) for part in (self.read, self.written, self.edges)
        )
        return _Pairs(
            read=read[:, level:],
            written=written[:, :level],
            left_edge=edges[:, 0],
            right_edge=edges[:, level],
            decays=self.decays[level][blocks].unflatten(0, (count, 2))[:, :, None],
            first=first,
        )

    def merge(self, level: int) -> None:
        """Make one block of every two neighbours: from its edges, its tokens lie further away."""
        reach = self.edges.shape[1]
        shared, beyond = min(level, reach), max(reach - level, 0)
        for pair in self.pairs(level):
            left, right = pair.decays.unbind(1)
            torch.hardshrink(pair.read.mul_(left), self.faint[0], out=pair.read)
            torch.hardshrink(pair.written.mul_(right), self.faint[1], out=pair.written)
            if reach:
                torch.hardshrink(pair.left_edge.mul_(right), self.faint[1], out=pair.left_edge)
                pair.written[:, level - shared :] += pair.right_edge[:, reach - shared :]
                pair.left_edge[:, reach - beyond :] += pair.right_edge[:, :beyond]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of neighbouring blocks, all of one size: views of a group.

    Attributes:
        read: Of the right blocks' targets.
        written: Of the left blocks' sources.
        left_edge, right_edge: Of the sources before the left and the right blocks.
        decays: What the left and the right blocks leave of a state.
        first: The first pair's first token.
    """

    read: Float[Tensor, "pairs w S"]
    written: Float[Tensor, "pairs l S"]
    left_edge: Float[Tensor, "pairs e S"]
    right_edge: Float[Tensor, "pairs e S"]
    decays: Float[Tensor, "pairs 2 1 S"]
    first: int

    __repr__ = brief


def _doubled(decays: Float[Tensor, "blocks S"], name: str, workspace: Workspace) -> Float[Tensor, "half S"]:
    """Return what blocks of twice the size leave of a state, zero where that is negligible."""
    pairs = decays.unflatten(0, (-1, 2))
    both = workspace.take(name, (len(pairs), decays.shape[1]), decays)
    torch.mul(pairs[:, 0], pairs[:, 1], out=both)
    return torch.threshold_(both, math.exp(NEGLIGIBLE[both.dtype]), 0)


def _outer(steps: Float[Tensor, "r d"], rates: Float[Tensor, "N d"], name: str, workspace: Workspace) -> Tensor:
    return torch.mul(steps[:, None], rates, out=workspace.take(name, (len(steps), *rates.shape), steps))


def _add_products(out: Float[Tensor, "R W"], group: _Group, level: int) -> None:
    """Add the products of blocks that are large enough to be multiplied one pair after the other."""
    reach = group.edges.shape[1]
    for pair in group.pairs(level):
        for number in range(len(pair.read)):
            start = pair.first + 2 * level * number
            read = pair.read[number]
            rows = out[start + level : start + level + len(read)]
            if reach:
                rows[:, start : start + reach].addmm_(read, pair.left_edge[number].t())
            rows[:, start + reach : start + reach + level].addmm_(read, pair.written[number].t())


def _add_batched(out: Float[Tensor, "R W"], sums: Float[Tensor, "pairs w c"], level: int, column: int) -> None:
    """Add the sums of pairs of small blocks, the first pair's from a column on."""
    rows, columns = out.stride()
    step = 2 * level * (rows + columns)
    place = out.as_strided(sums.shape, (step, rows, columns), out.storage_offset() + level * rows + column * columns)
    place += sums
