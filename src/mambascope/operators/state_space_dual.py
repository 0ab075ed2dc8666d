"""Mamba-2's scan as a lower-triangular matrix per head ([2] eq. 16, state-space duality), never held whole.

    alpha_ij[h] = (C_i · B_j) exp(A_h (S_i[h] - S_j[h])) Δ_j[h],   j ≤ i,   S = cumsum(Δ)

The P channels of a head share its matrix; the heads of a group share B and C.
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
from mambascope.operators.blocks import Block, Places, Workspace, future
from mambascope.operators.decays import Fallen, decay_from, decay_in_place, finite_rates
from mambascope.operators.per_head import PerHead
from mambascope.operators.recurrence import (
    head_carried,
    head_recurrence,
    joined,
    one_hot,
    parts_from_the_end,
    reverse_in_time,
)


@dataclass(frozen=True, eq=False)
class StateSpaceDual(PerHead):
    """The data-dependent coefficients of one Mamba-2 scan, frozen at the values of a forward pass.

    Attributes:
        dt: Δ after bias, softplus and clamp.
        A: Negative decay rate of every head.
        B: Write vectors per group.
        C: Read vectors per group.
        skip: D per channel (a head's value repeated for its channels): the scan's output is alpha s + skip s.
    """

    dt: Float[Tensor, "b L H"]
    A: Float[Tensor, " H"]
    B: Float[Tensor, "b L G N"]
    C: Float[Tensor, "b L G N"]
    skip: Float[Tensor, " D"]

    __repr__ = brief

    @property
    def maps(self) -> int:
        """Number of distinct matrices: one per head."""
        return self.A.shape[0]

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return self.dt.shape[1]

    @property
    def state_size(self) -> int:
        """N, the state size per channel."""
        return self.B.shape[-1]

    @cached_property
    def fallen(self) -> Fallen:
        """A S = Σ A Δ in float64, heads first: (b, H, L)."""
        return Fallen.of(self.dt.transpose(1, 2).double() * finite_rates(self.A.double())[:, None], dim=-1)

    def reading(self, number: int) -> StateSpaceDual:
        """Return the scan that reads one number of every channel's state, in place of C."""
        return replace(self, C=one_hot(self.C, number), skip=torch.zeros_like(self.skip))

    def written(self, sources: slice) -> Float[Tensor, "b H c N"]:
        """Return exp(A_h (S_last - S_j)[h]) Δ_j[h] B_j; see `Stepwise`."""
        elapsed = self.dt.double().cumsum(dim=1)
        kept = decay_in_place((elapsed[:, -1:] - elapsed[:, sources]).to(self.dt.dtype) * self.A)
        return ((kept * self.dt[:, sources])[..., None] * self._of_heads(self.B[:, sources])).transpose(1, 2)

    def recalled(self) -> Float[Tensor, "b L H N"]:
        """Return exp(A_h Δ_i[h]) C_i; see `Stepwise`."""
        return decay_in_place(self.dt * self.A)[..., None] * self._of_heads(self.C)

    def immediate(self) -> Float[Tensor, "b L H"]:
        """Return alpha_ii."""
        return self.dt * self._of_heads((self.C * self.B).sum(dim=-1))

    def _of_heads(self, groups: Float[Tensor, "b L G *n"]) -> Float[Tensor, "b L H *n"]:
        """Return what the heads of every group share, head by head."""
        return groups.repeat_interleave(self.maps // groups.shape[2], dim=2)

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, in chunks of matrix products: O(L·D·N)."""
        heads = rearrange(v, "b L (h p) -> b L h p", h=self.maps) * self.dt[..., None]
        return rearrange(head_recurrence(heads, self.dt, self.A, self.B, self.C), "b L h p -> b L (h p)")

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by the reversed scan: O(L·D·N)."""
        return self.backwards(v)[0]

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels, by the reversed scan with one channel per head: O(L·H·N)."""
        return self.backwards(v[..., None].expand(-1, -1, self.maps))[0].mean(dim=-1)

    def forwards(
        self, v: Float[Tensor, "b L D"], before: Float[Tensor, "b H P N"] | None = None
    ) -> tuple[Float[Tensor, "b L D"], Float[Tensor, "b H P N"]]:
        """Return alpha v and what a state before the text gives, and the state after it; see `Carried`."""
        heads = rearrange(v, "b L (h p) -> b L h p", h=self.maps) * self.dt[..., None]
        o, after = head_carried(heads, self.dt, self.A, self.B, self.C, before)
        return rearrange(o, "b L h p -> b L (h p)"), after

    def backwards(
        self, v: Float[Tensor, "b L c"], after: Float[Tensor, "b H P N"] | None = None
    ) -> tuple[Float[Tensor, "b L c"], Float[Tensor, "b H P N"]]:
        """Return vᵀ alpha and what a gradient at the state after the text gives, and that before it; see `Carried`.

        A head may have any number of channels: they share its matrix.
        """
        found = []
        for part in parts_from_the_end(self.length):
            step, write, read = self.dt[:, part], self.B[:, part].flip(1), self.C[:, part].flip(1)
            heads = rearrange(v[:, part].flip(1), "b L (h p) -> b L h p", h=self.maps)
            flow, after = head_carried(heads, reverse_in_time(step), self.A, read, write, after)
            found.append(rearrange(flow.flip(1) * step[..., None], "b L h p -> b L (h p)"))
            after = after * decay_from(step[:, 0] * finite_rates(self.A))[..., None, None]
        assert after is not None
        return joined(found[::-1]), after

    def left(self, before: Float[Tensor, "n H P N"]) -> Float[Tensor, "n H P N"]:
        """Return what is left of some states after the text; see `Fading`."""
        elapsed = self.dt.sum(dim=1, dtype=torch.float64).to(self.dt.dtype)
        return before * decay_from(elapsed * finite_rates(self.A))[..., None, None]

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for the given targets and sources; future pairs are exactly zero.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Heads to return, all by default.
        """
        chosen = torch.arange(self.maps) if maps is None else torch.as_tensor(maps)
        chosen = chosen.to(self.A.device)
        masked = future(Block(rows, columns), self.A.device)
        fallen = self.fallen[:, chosen]
        fall = (fallen[..., rows, None] - fallen[..., None, columns]).to(self.dt.dtype)
        if masked is not None:
            fall = fall.masked_fill_(masked, 0)
        alpha = decay_in_place(fall)
        group = chosen // (self.maps // self.B.shape[2])
        alpha *= torch.einsum("btgn,bcgn->bgtc", self.C[:, rows], self.B[:, columns])[:, group]
        alpha *= self.dt[:, columns].transpose(1, 2)[:, chosen, None]
        return alpha if masked is None else alpha.masked_fill_(masked, 0)

    def mean(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b t c"]:
        """Return `mix` averaged over channels.

        In a far block the decay splits into two factors, so that the sum over heads is a matrix product, too.
        """
        if block.reference is None:
            return super().mean(block, taps, gate, workspace)
        groups, dtype, c = self.B.shape[2], self.dt.dtype, block.shape[1]
        positions = slice(block.columns.start, block.columns.stop + (0 if taps is None else taps.shape[1] - 1))
        reference = self.fallen[..., block.reference : block.reference + 1]
        read = decay_in_place((self.fallen[..., block.rows] - reference).to(dtype), factors=2).transpose(1, 2)
        written = decay_in_place((reference - self.fallen[..., positions]).to(dtype), factors=2).transpose(1, 2)
        written = written * self.dt[:, positions]
        pairs = torch.einsum("btgn,bpgn->bgtp", self.C[:, block.rows], self.B[:, positions])
        width = len(self.skip) // self.maps
        if gate is not None:
            read = read.repeat_interleave(width, dim=2) * gate
        elif taps is not None:
            read = read.repeat_interleave(width, dim=2)
        if gate is not None or taps is not None:
            written = written.repeat_interleave(width, dim=2)
        read = rearrange(read, "b t (g d) -> b g t d", g=groups)
        total = pairs.new_zeros(len(pairs), *block.shape)
        for shift in range(1 if taps is None else taps.shape[1]):
            own = written[:, shift : shift + c]
            own = own if taps is None else own * taps[:, shift].transpose(1, 2)
            summed = read @ rearrange(own, "b c (g d) -> b g d c", g=groups)
            total += summed.mul_(pairs[..., shift : shift + c]).sum(dim=1)
        return total / (self.maps if taps is None and gate is None else len(self.skip))
