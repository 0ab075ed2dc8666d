"""Scans that read the tokens in several orders, added up: one mixer whose targets see earlier and later tokens.

    alpha = Σ_r w_r P_rᵀ alpha_r P_r ,   D = Σ_r w_r D_r

where P_r brings the tokens into the order in which scan r reads them. Vim reads forwards and backwards; VMamba's
cross-scan reads a picture by rows and by columns, each in both directions. A norm or a gate after the sum is not part
of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mambascope.brief import brief
from mambascope.operators.blocks import Block, Places, Workspace
from mambascope.operators.permutation import Part, added, added_rows
from mambascope.operators.token_mixer import TokenMixer

#: Numbers of a mean of whole rows that are held at a time (64 MiB in float32).
MEAN_ELEMENTS = 1 << 24


@dataclass(frozen=True, eq=False)
class MultiScan:
    """Scans over the same tokens in several orders, added up; a `TokenMixer`.

    Attributes:
        parts: The scans; all have the same number of channels, and of channels per map.
    """

    parts: tuple[Part[TokenMixer], ...]

    __repr__ = brief

    @cached_property
    def skip(self) -> Float[Tensor, " D"]:
        """D, the direct path: a token is its own source in every order."""
        return torch.stack([part.scale * part.mixer.skip for part in self.parts]).sum(dim=0)

    @property
    def maps(self) -> int:
        """Number of distinct matrices."""
        return self.parts[0].mixer.maps

    @property
    def state_size(self) -> int:
        """N, the state size of one scan."""
        return self.parts[0].mixer.state_size

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return len(self.parts[0].permutation.tokens)

    @cached_property
    def causal(self) -> bool:
        """Whether no target depends on later tokens: every scan is causal and reads the tokens in their own order."""
        return all(part.permutation.is_identity and part.mixer.causal for part in self.parts)

    def channels(self, maps: Float[Tensor, "b M *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-map values."""
        return self.parts[0].mixer.channels(maps)

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield all pairs as one block of whole rows: in another order, a target's sources are scattered."""
        yield Block(slice(0, self.length), slice(0, self.length), whole_rows=True)

    def mean_blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield whole rows, as many as the memory for their mean should hold: all of them in all but long texts."""
        rows = max(1, MEAN_ELEMENTS // self.length)
        for top in range(0, self.length, rows):
            yield Block(slice(top, min(top + rows, self.length)), slice(0, self.length), whole_rows=True)

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, by one scan per order."""
        return added(self.parts, lambda part: part.mixer.apply(part.permutation.read(v)))

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by one reversed scan per order."""
        return added(self.parts, lambda part: part.mixer.apply_transposed(part.permutation.read(v)))

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels, by one reversed scan per order."""
        return added(self.parts, lambda part: part.mixer.pull(part.permutation.read(v)))

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for the given targets and sources.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Maps to return, all by default.
        """
        tiles = (
            part.scale * part.mixer.tile(part.permutation.steps_of(rows), part.permutation.steps_of(columns), maps)
            for part in self.parts
        )
        return sum(tiles, start=torch.zeros((), dtype=self.skip.dtype, device=self.skip.device))

    def mix(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b D t c"]:
        """Return what the sources of a block give to its targets per channel; see `TokenMixer.mix`."""
        alpha = added_rows(
            self.parts,
            self._scan_blocks,
            block.rows,
            lambda scan, inner, own: scan.mix(own, None, None, inner),
            workspace,
        )
        if taps is None:
            mixed = alpha[..., block.columns]
        else:
            reach, c = taps.shape[1] - 1, block.shape[1]
            alpha = F.pad(alpha, (0, reach))[..., block.columns.start : block.columns.stop + reach]
            mixed = alpha[..., :c] * taps[:, 0, :, None]
            for shift in range(1, reach + 1):
                mixed += alpha[..., shift : shift + c] * taps[:, shift, :, None]
        return mixed if gate is None else mixed * gate.transpose(1, 2)[..., None]

    def mean(
        self,
        block: Block,
        taps: Float[Tensor, "b K D c"] | None,
        gate: Float[Tensor, "b t D"] | None,
        workspace: Workspace,
    ) -> Float[Tensor, "b t c"]:
        """Return `mix` averaged over channels."""
        if taps is not None or gate is not None:
            return self.mix(block, taps, gate, workspace).mean(dim=1)
        rows = added_rows(
            self.parts,
            self._mean_blocks,
            block.rows,
            lambda scan, inner, own: scan.mean(own, None, None, inner),
            workspace,
        )
        return rows[..., block.columns]

    @cached_property
    def _scan_blocks(self) -> list[list[Block]]:
        return [list(part.mixer.blocks()) for part in self.parts]

    @cached_property
    def _mean_blocks(self) -> list[list[Block]]:
        return [list(part.mixer.mean_blocks()) for part in self.parts]
