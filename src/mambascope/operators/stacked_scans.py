"""Scans of which each has channels of its own, as one: the channels of the first come first, then those of the next.

    alpha[d] = alpha_r[d - D_1 - … - D_{r-1}]   for the channels d of scan r

Zamba's mixers (Glorioso et al., arXiv 2405.16712) fall into heads that are Mamba's scan once more each, with rates,
write and read vectors of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Block, Places, Workspace
from mambascope.operators.token_mixer import Recurrent, TokenMixer


@dataclass(frozen=True, eq=False)
class StackedScans:
    """Scans over the same tokens, each on channels of its own; a `TokenMixer`.

    Attributes:
        parts: The scans, in the order of their channels; all are of one kind, with as many maps and channels each.
    """

    parts: tuple[TokenMixer, ...]

    __repr__ = brief

    @cached_property
    def skip(self) -> Float[Tensor, " D"]:
        """D, the direct path per channel."""
        return torch.cat([part.skip for part in self.parts])

    @property
    def maps(self) -> int:
        """Number of distinct matrices of all scans together."""
        return sum(part.maps for part in self.parts)

    @property
    def state_size(self) -> int:
        """N, the state size per channel."""
        return self.parts[0].state_size

    @property
    def causal(self) -> bool:
        """Whether no target depends on later tokens."""
        return all(part.causal for part in self.parts)

    def channels(self, maps: Float[Tensor, "b M *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-map values."""
        pairs = zip(self.parts, maps.chunk(len(self.parts), dim=1), strict=True)
        return torch.cat([part.channels(own) for part, own in pairs], dim=1)

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield blocks that suit every part."""
        return self.parts[0].blocks(taps)

    def mean_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield blocks that suit every part's mean."""
        return self.parts[0].mean_blocks(taps)

    def reading(self, number: int) -> StackedScans:
        """Return the scans that read one number of every channel's state."""
        return StackedScans(tuple(cast(Recurrent, part).reading(number) for part in self.parts))

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, by one scan after the other."""
        return torch.cat([part.apply(own) for part, own in self._shared_out(v)], dim=-1)

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by one reversed scan after the other."""
        return torch.cat([part.apply_transposed(own) for part, own in self._shared_out(v)], dim=-1)

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels."""
        return torch.stack([part.pull(v) for part in self.parts]).mean(dim=0)

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for the given targets and sources.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Maps to return, counted through all scans; all by default.
        """
        if maps is None:
            return torch.cat([part.tile(rows, columns) for part in self.parts], dim=1)
        each = self.parts[0].maps
        return torch.cat([self.parts[one // each].tile(rows, columns, [one % each]) for one in maps], dim=1)

    def mix(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b D t c"]:
        """Return what the sources of a block give to its targets per channel; see `TokenMixer.mix`."""
        inner, each = workspace.within("parts"), len(self.parts[0].skip)
        out: Tensor | None = None
        for number, (part, own_taps, own_gate) in enumerate(self._factors(taps, gate)):
            mixed = part.mix(block, own_taps, own_gate, inner)
            if out is None:
                out = workspace.take("mixed", (len(mixed), len(self.skip), *block.shape), mixed)
            out[:, number * each : (number + 1) * each] = mixed
        assert out is not None
        return out

    def mean(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b t c"]:
        """Return `mix` averaged over channels."""
        parts = self._factors(taps, gate)  # a part's mean may live in the workspace until the next one is found
        total = torch.stack([part.mean(block, own, factor, workspace).clone() for part, own, factor in parts])
        return total.mean(dim=0)

    def _shared_out(self, v: Float[Tensor, "b L D"]) -> Iterator[tuple[TokenMixer, Float[Tensor, "b L P"]]]:
        return zip(self.parts, v.chunk(len(self.parts), dim=-1), strict=True)

    def _factors(
        self, taps: Tensor | None, gate: Tensor | None
    ) -> Iterator[tuple[TokenMixer, Tensor | None, Tensor | None]]:
        """Yield each scan with its channels' taps and gates."""
        count = len(self.parts)
        own_taps = [None] * count if taps is None else taps.chunk(count, dim=2)
        own_gates = [None] * count if gate is None else gate.chunk(count, dim=-1)
        return zip(self.parts, own_taps, own_gates, strict=True)
