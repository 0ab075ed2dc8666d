"""Mamba-1's selective scan as a lower-triangular matrix per channel ([3] eq. 14), never held whole.

    alpha_ij[d] = Σ_n C_i[n] exp(A[d,n] (S_i[d] - S_j[d])) Δ_j[d] B_j[n],   j ≤ i,   S = cumsum(Δ)

Differences of S are taken in float64: in float32 their error would grow with the length of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Block, Places, Workspace, causal_blocks, future, numbers, padded_tile, split
from mambascope.operators.decays import decay_from, decay_in_place, finite_rates
from mambascope.operators.mean_by_halves import Run, mean_of_run
from mambascope.operators.mean_of_rectangle import mean_of_rectangle
from mambascope.operators.near_matrices import near_matrices
from mambascope.operators.recurrence import (
    CACHED_ELEMENTS,
    channel_carried,
    channel_recurrence,
    joined,
    one_hot,
    parts_from_the_end,
    reverse_in_time,
)

#: Most targets and sources of a block at the diagonal whose mean over channels is taken at once.
MEAN_SIZE = 1024
#: Most of one away from it: fewer, since the further apart blocks are, the fewer channels and states count.
FAR_SIZE = 512
#: Most sources of a block whose matrices are running products of decays.
MOST_NEAR = 32


@dataclass(frozen=True, eq=False)
class SelectiveScan:
    """The data-dependent coefficients of one Mamba-1 scan, frozen at the values of a forward pass.

    Attributes:
        dt: Δ after bias, softplus and clamp.
        A: Negative decay rates.
        B: Write vectors, shared by all channels.
        C: Read vectors, shared by all channels.
        skip: D, the direct path: the scan's output is alpha s + skip s.
    """

    dt: Float[Tensor, "b L D"]
    A: Float[Tensor, "D N"]
    B: Float[Tensor, "b L N"]
    C: Float[Tensor, "b L N"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per channel."""
        return self.A.shape[0]

    @property
    def causal(self) -> bool:
        """Always True: no target depends on later tokens."""
        return True

    @property
    def state_size(self) -> int:
        """N, the state size per channel."""
        return self.A.shape[1]

    @cached_property
    def elapsed(self) -> Float[Tensor, "b D L"]:
        """S = cumsum(Δ) in float64, channels first."""
        return self.dt.transpose(1, 2).to(torch.float64, copy=True).cumsum_(dim=-1)

    @cached_property
    def elapsed_by_token(self) -> Float[Tensor, "b L D"]:
        """The same with each token's channels side by side, as one target's row reads it."""
        return self.dt.to(torch.float64).cumsum(dim=1)

    @cached_property
    def rates(self) -> Float[Tensor, "D N"]:
        """A, with the least number in place of minus infinity."""
        return finite_rates(self.A)

    def channels(self, maps: Float[Tensor, "b M *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-map values; here every channel has its own map."""
        return maps

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the blocks of the causal triangle that suit this operator."""
        return causal_blocks(self.dt.shape[1], taps, base=8)

    def mean_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield the blocks that suit `mean`: large ones, at the diagonal too."""
        for block in causal_blocks(self.dt.shape[1], taps, base=MEAN_SIZE):
            yield from [block] if block.reference is None else split(block, FAR_SIZE, FAR_SIZE + 1)

    def reading(self, number: int) -> SelectiveScan:
        """Return the scan that reads one number of every channel's state, in place of C."""
        return replace(self, C=one_hot(self.C, number), skip=torch.zeros_like(self.skip))

    def written(self, sources: slice) -> Float[Tensor, "b D c N"]:
        """Return exp(A[d,n] (S_last - S_j)[d]) Δ_j[d] B_j[n]; see `Stepwise`."""
        elapsed = self.dt.double().cumsum(dim=1)
        since = (elapsed[:, -1:] - elapsed[:, sources]).to(self.dt.dtype)
        kept = decay_in_place(since[..., None] * self.A)
        return kept.mul_(self.dt[:, sources, :, None]).mul_(self.B[:, sources, None]).transpose(1, 2)

    def recalled(self) -> Float[Tensor, "b L D N"]:
        """Return C_i[n] exp(A[d,n] Δ_i[d]); see `Stepwise`."""
        return decay_in_place(self.dt[..., None] * self.A).mul_(self.C[:, :, None])

    def immediate(self) -> Float[Tensor, "b L D"]:
        """Return alpha_ii."""
        return self.dt * (self.C * self.B).sum(dim=-1, keepdim=True)

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, by the scan: O(L·D·N)."""
        return channel_recurrence(self.dt * v, self.dt, self.A, self.B, self.C)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by the reversed scan: O(L·D·N)."""
        return self.backwards(v)[0]

    def forwards(
        self, v: Float[Tensor, "b L D"], before: Float[Tensor, "b N D"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b N D"]]:
        """Return alpha v and what a state before the text gives, and the state after it; see `Carried`."""
        return channel_carried(self.dt * v, self.dt, self.A, self.B, self.C, before)

    def backwards(
        self, v: Float[Tensor, "b L D"], after: Float[Tensor, "b N D"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b N D"]]:
        """Return vᵀ alpha and what a gradient at the state after the text gives, and that before it; see `Carried`."""
        found, rates = [], self.rates.t()
        for part in parts_from_the_end(self.dt.shape[1]):
            step, write, read = self.dt[:, part], self.B[:, part].flip(1), self.C[:, part].flip(1)
            flow, after = channel_carried(v[:, part].flip(1), reverse_in_time(step), self.A, read, write, after)
            found.append(step * flow.flip(1))
            after = after * decay_from(step[:, :1] * rates)
        assert after is not None
        return joined(found[::-1]), after

    def left(self, before: Float[Tensor, "n N D"]) -> Float[Tensor, "n N D"]:
        """Return what is left of some states after the text; see `Fading`."""
        elapsed = self.dt.sum(dim=1, dtype=torch.float64).to(self.dt.dtype)
        return before * decay_from(elapsed[:, None] * self.rates.t())

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels, by the reversed scan: O(L·D·N)."""
        return self.apply_transposed(v[..., None].expand(-1, -1, self.maps)).mean(dim=-1)

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for the given targets and sources; future pairs are exactly zero.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Channels to return, all by default.
        """
        chosen = slice(None) if maps is None else torch.as_tensor(maps, device=self.A.device)
        masked = future(Block(rows, columns), self.A.device)
        if isinstance(rows, slice) and rows.stop - rows.start == 1:
            row = self._row(rows.start, columns, chosen, None if masked is None else masked[0, :, None])
            return row.transpose(1, 2)[:, :, None]
        elapsed, A = self.elapsed[:, chosen], self.rates[chosen]
        fall = (elapsed[..., rows, None] - elapsed[..., None, columns]).to(self.dt.dtype)
        if masked is not None:
            fall = fall.masked_fill_(masked, 0)
        pairs = torch.einsum("btn,bcn->nbtc", self.C[:, rows], self.B[:, columns])
        total, term = torch.zeros_like(fall), torch.empty_like(fall)
        for n in range(self.state_size):  # one state at a time keeps the working set in the cache
            torch.mul(fall, A[:, n, None, None], out=term)
            total.addcmul_(decay_in_place(term), pairs[n, :, None])
        total *= self.dt[:, columns].transpose(1, 2)[:, chosen, None]
        return total if masked is None else total.masked_fill_(masked, 0)

    def _row(
        self, target: int, columns: Places, chosen: slice | Tensor, masked: Bool[Tensor, "c 1"] | None
    ) -> Float[Tensor, "b c M"]:
        """Return alpha of one target, each source's channels side by side; a few sources at a time stay in cache."""
        elapsed, At = self.elapsed_by_token[..., chosen], self.rates[chosen].t().contiguous()
        fall = (elapsed[:, target, None] - elapsed[:, columns]).to(self.dt.dtype)
        fall = fall if masked is None else fall.masked_fill_(masked, 0)
        row, B = torch.empty_like(fall), self.B[:, columns]
        size = max(1, CACHED_ELEMENTS // (len(fall) * At.numel() or 1))
        for part in (slice(first, first + size) for first in range(0, fall.shape[1], size)):
            kept = decay_in_place(fall[:, part, None] * At)
            torch.matmul((self.C[:, target, None] * B[:, part])[:, :, None], kept, out=row[:, part, None])
        row *= self.dt[:, columns][..., chosen]
        return row if masked is None else row.masked_fill_(masked, 0)

    def mix(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b D t c"]:
        """Return what the sources of a block give to its targets per channel; see `TokenMixer.mix`."""
        b, D, (t, c) = self.dt.shape[0], self.maps, block.shape
        out = workspace.take("mixed", (b, D, t, c), self.dt)
        if block.reference is None:
            mixed = self._near(block, taps, out, workspace)
            return mixed if gate is None else mixed.mul_(gate.transpose(1, 2)[..., None])
        targets = self._target_factor(block, gate, workspace)
        sources = self._kept_source_factor(block, taps, workspace)
        torch.bmm(targets.flatten(0, 1), sources.flatten(0, 1), out=out.view(b * D, t, c))
        return out

    def mean(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b t c"]:
        """Return `mix` averaged over channels, by matrix products of inner size D·N; no block's matrices are held."""
        out = workspace.take("mean", (len(self.dt), *block.shape), self.dt).zero_()
        one = self._mean_of_run if block.reference is None else self._mean_of_rectangle
        for item in range(len(self.dt)):
            own = (None if taps is None else taps[item], None if gate is None else gate[item])
            one(item, block, *own, workspace, out[item])
        return out

    def _mean_of_run(
        self, item: int, block: Block, taps: Tensor | None, gate: Tensor | None, workspace: Workspace, out: Tensor
    ) -> None:
        """Write the mean of a block at the diagonal: rows of that of all tokens from the block's first source on."""
        first, c = block.columns.start, block.shape[1]
        rows = numbers(block.rows, out.device) - first
        seen, length = rows >= 0, int(rows.max()) + 1
        if length <= 0:
            return
        run, shared = slice(first, first + length), min(length, c)
        if taps is not None:
            taps = taps[..., :length] if shared == length else F.pad(taps, (0, length - shared))
        if gate is not None:
            gate = gate.new_zeros(length, self.maps).index_copy_(0, rows[seen], gate[seen])
        dt, B, C = (part[item, run] for part in (self.dt, self.B, self.C))
        square = mean_of_run(Run.of(dt, self.rates, B, C, taps, gate), workspace)
        out[seen, :shared] = square[rows[seen], :shared]

    def _mean_of_rectangle(
        self, item: int, block: Block, taps: Tensor | None, gate: Tensor | None, workspace: Workspace, out: Tensor
    ) -> None:
        """Write the mean of a far block."""
        elapsed, reach = self.elapsed[item], 0 if taps is None else taps.shape[0] - 1
        written = slice(block.columns.start, block.columns.stop + reach)
        reference = elapsed[:, block.reference, None]
        out[:] = mean_of_rectangle(
            (elapsed[:, block.rows] - reference).to(self.dt.dtype),
            (reference - elapsed[:, written]).to(self.dt.dtype),
            self.rates,
            self.C[item, block.rows],
            gate,
            self.B[item, written],
            self.dt[item, written],
            taps,
            workspace,
        )

    def _near(
        self, block: Block, taps: Float[Tensor, "b K D c"] | None, out: Float[Tensor, "b D t c"], workspace: Workspace
    ) -> Float[Tensor, "b D t c"]:
        """Write Σ_δ alpha_i,j+δ taps_jδ for a block at the diagonal, straight from the matrix."""
        reach, c = 0 if taps is None else taps.shape[1] - 1, block.shape[1]
        alpha = padded_tile(
            lambda rows, columns: self._near_tile(rows, columns, workspace), block, reach, self.dt.shape[1]
        )
        if taps is None:
            return out.copy_(alpha)
        torch.mul(alpha[..., :c], taps[:, 0, :, None], out=out)
        for shift in range(1, reach + 1):
            out.addcmul_(alpha[..., shift : shift + c], taps[:, shift, :, None])
        return out

    def _near_tile(self, rows: Places, columns: slice, workspace: Workspace) -> Float[Tensor, "b D t c"]:
        """Return `tile`, by running products if the targets are a few that end with the sources."""
        stop, c = columns.stop, columns.stop - columns.start
        if not isinstance(rows, slice) or not columns.start < rows.stop <= stop or c > MOST_NEAR:
            return self.tile(rows, columns)
        run = slice(columns.start, rows.stop)
        B, C = self.B[:, run], self.C[:, run]
        alpha = near_matrices(self.dt[:, run], self.rates, B, C, rows.start - run.start, workspace)
        return F.pad(alpha, (0, stop - rows.stop)) if stop > rows.stop else alpha

    def _target_factor(self, block: Block, gate: Tensor | None, workspace: Workspace) -> Float[Tensor, "b D t N"]:
        """Return gate_i C_i[n] exp(A[d,n] (S_i - S_r)[d])."""
        since = (self.elapsed[..., block.rows] - self.elapsed[..., block.reference, None]).to(self.dt.dtype)
        factor = workspace.take("target", (*since.shape, self.state_size), self.dt)
        decay_in_place(torch.mul(since[..., None], self.rates[:, None], out=factor), factors=2)
        factor *= self.C[:, None, block.rows]
        return factor if gate is None else factor.mul_(gate.transpose(1, 2)[..., None])

    def _kept_source_factor(self, block: Block, taps: Tensor | None, workspace: Workspace) -> Float[Tensor, "b D N c"]:
        """Return the source factor, made once for consecutive pieces of a block that have the same sources."""
        key = (id(self), block.columns.start, block.columns.stop, block.reference, id(taps))
        if taps is not None:
            workspace.keep("taps of sources", key, lambda: taps)  # while they are held, no others have their id
        return workspace.keep("sources", key, lambda: self._source_factor(block, taps, workspace.within("sources")))

    def _source_factor(self, block: Block, taps: Tensor | None, workspace: Workspace) -> Float[Tensor, "b D N c"]:
        """Return Σ_δ exp(A[d,n] (S_r - S_{j+δ})[d]) Δ_{j+δ}[d] B_{j+δ}[n] taps_jδ[d]: the convolution folded in."""
        reach = 0 if taps is None else taps.shape[1] - 1
        b, c = self.dt.shape[0], block.shape[1]
        places = slice(block.columns.start, block.columns.stop + reach)
        until = (self.elapsed[..., block.reference, None] - self.elapsed[..., places]).to(self.dt.dtype)
        factor = workspace.take("source", (b, self.maps, self.state_size, c + reach), self.dt)
        decay_in_place(torch.mul(until[:, :, None], self.rates[:, :, None], out=factor), factors=2)
        factor *= self.B[:, places].transpose(1, 2)[:, None]
        factor *= self.dt[:, places].transpose(1, 2)[:, :, None]
        if taps is None:
            return factor
        folded = workspace.take("folded", (b, self.maps, self.state_size, c), self.dt)
        torch.mul(factor[..., :c], taps[:, 0, :, None], out=folded)
        for shift in range(1, reach + 1):
            folded.addcmul_(factor[..., shift : shift + c], taps[:, shift, :, None])
        return folded
