"""Scans that read the tokens in several orders, added up: one mixer whose targets see past and future.

    alpha = Σ_r w_r P_rᵀ alpha_r P_r ,   D = Σ_r w_r D_r

where P_r brings the tokens into the order in which scan r reads them. Vim reads forwards and backwards; VMamba's
cross-scan reads a picture by rows and by columns, each both ways. What follows the sum, a norm or a gate, comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.operators.blocks import Block, Places, Workspace
from mambascope.operators.token_mixer import TokenMixer


@dataclass(frozen=True, eq=False)
class Order:
    """An order in which tokens are read.

    Attributes:
        tokens: The token that is read at each step; a permutation.
    """

    tokens: Int[Tensor, " L"]

    __repr__ = brief

    def __post_init__(self) -> None:
        if not torch.equal(self.tokens.sort().values, torch.arange(len(self.tokens), device=self.tokens.device)):
            raise InputError(f"an order of {len(self.tokens)} tokens must hold each of their numbers once")

    @cached_property
    def steps(self) -> Int[Tensor, " L"]:
        """The step at which each token is read."""
        return self.tokens.argsort()

    @cached_property
    def is_text(self) -> bool:
        """Whether tokens are read as they stand."""
        return bool((self.tokens[1:] > self.tokens[:-1]).all())

    def read(self, values: Float[Tensor, "b L *s"]) -> Float[Tensor, "b L *s"]:
        """Return values of tokens in the order of reading."""
        return values if self.is_text else values[:, self.tokens]

    def restore(self, values: Float[Tensor, "b L *s"]) -> Float[Tensor, "b L *s"]:
        """Return values of steps in the order of the tokens."""
        return values if self.is_text else values[:, self.steps]

    def steps_of(self, tokens: Places) -> Places:
        """Return the steps at which these tokens are read, as a slice where they follow one another."""
        return tokens if self.is_text and isinstance(tokens, slice) else as_slice(self.steps[tokens])

    def rows(
        self,
        tokens: slice,
        blocks: Iterable[Block],
        tile: Callable[[Block], Float[Tensor, "*s t c"]],
        workspace: Workspace,
    ) -> Float[Tensor, "*s t L"]:
        """Return the matrix rows of some targets, with targets and sources as they stand in the text.

        Args:
            tokens: The targets.
            blocks: Blocks of steps that hold every pair once.
            tile: Given a block of which only some targets are left, returns its part of the matrix.
            workspace: Buffers; the answer may live in one.
        """
        steps, ranks = self.steps[tokens].sort()
        rows: Tensor | None = None
        for block in blocks:
            first, last = torch.searchsorted(steps, steps.new_tensor([block.rows.start, block.rows.stop])).tolist()
            if first < last:
                part = tile(Block(as_slice(steps[first:last]), block.columns, block.reference))
                if rows is None:
                    rows = workspace.take("rows", (*part.shape[:-2], len(steps), len(self.tokens)), part).zero_()
                rows[..., first:last, block.columns] = part
        assert rows is not None
        if self.is_text:
            return rows
        if torch.equal(self.steps, self.steps[0] - torch.arange(len(self.steps), device=steps.device)):
            return rows.flip(-2, -1)
        return rows[..., ranks.argsort()[:, None], self.steps]


@dataclass(frozen=True, eq=False)
class OrderedScan:
    """One of the scans.

    Attributes:
        scan: The scan, over tokens in its own order.
        order: That order.
        weight: What its output is multiplied by in the sum.
    """

    scan: TokenMixer
    order: Order
    weight: float = 1.0

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class DirectedScan:
    """Scans over the same tokens in several orders, added up; a `TokenMixer`.

    Attributes:
        parts: The scans; each has as many channels, and as many channels per map.
    """

    parts: tuple[OrderedScan, ...]

    __repr__ = brief

    @cached_property
    def skip(self) -> Float[Tensor, " D"]:
        """D, the direct path: a token is its own source in every order."""
        return torch.stack([part.weight * part.scan.skip for part in self.parts]).sum(dim=0)

    @property
    def maps(self) -> int:
        """Number of distinct matrices."""
        return self.parts[0].scan.maps

    @property
    def state_size(self) -> int:
        """N, the numbers of state of one scan."""
        return self.parts[0].scan.state_size

    @property
    def length(self) -> int:
        """L, the number of tokens."""
        return len(self.parts[0].order.tokens)

    @cached_property
    def causal(self) -> bool:
        """Whether no target draws from its future: all scans read the tokens as they stand."""
        return all(part.order.is_text and part.scan.causal for part in self.parts)

    def channels(self, maps: Float[Tensor, "b M *s"]) -> Float[Tensor, "b D *s"]:
        """Return the per-channel form of per-map values."""
        return self.parts[0].scan.channels(maps)

    def blocks(self, taps: int = 1) -> Iterator[Block]:
        """Yield all pairs as one block of whole rows: in another order a target's sources are scattered."""
        yield Block(slice(0, self.length), slice(0, self.length), whole_rows=True)

    def apply(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return alpha v per channel, by one scan per order."""
        return self._sum(lambda part: part.scan.apply(part.order.read(v)))

    def apply_transposed(self, v: Float[Tensor, "b L D"]) -> Float[Tensor, "b L D"]:
        """Return vᵀ alpha per channel, by one reversed scan per order."""
        return self._sum(lambda part: part.scan.apply_transposed(part.order.read(v)))

    def pull(self, v: Float[Tensor, "b L"]) -> Float[Tensor, "b L"]:
        """Return vᵀ times the mean of alpha over channels, by one reversed scan per order."""
        return self._sum(lambda part: part.scan.pull(part.order.read(v)))

    def tile(self, rows: Places, columns: Places, maps: Sequence[int] | None = None) -> Float[Tensor, "b M t c"]:
        """Return alpha for the given targets and sources.

        Args:
            rows: Targets.
            columns: Sources.
            maps: Maps to return, all by default.
        """
        tiles = (
            part.weight * part.scan.tile(part.order.steps_of(rows), part.order.steps_of(columns), maps)
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
        alpha = self._rows(block.rows, workspace, lambda part, inner, own: part.scan.mix(own, None, None, inner))
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
        rows = self._rows(block.rows, workspace, lambda part, inner, own: part.scan.mean(own, None, None, inner))
        return rows[..., block.columns]

    def _rows(
        self, rows: slice, workspace: Workspace, tile: Callable[[OrderedScan, Workspace, Block], Tensor]
    ) -> Float[Tensor, "b *D t L"]:
        """Return the sum over scans of whole rows."""
        total: Tensor | None = None
        inner = Workspace()
        for part in self.parts:
            found = part.order.rows(rows, part.scan.blocks(), partial(tile, part, inner), workspace)
            total = found * part.weight if total is None else total.add_(found, alpha=part.weight)
        assert total is not None
        return total

    def _sum(self, of: Callable[[OrderedScan], Tensor]) -> Tensor:
        values = [part.weight * part.order.restore(of(part)) for part in self.parts]
        return torch.stack(values).sum(dim=0)


def as_slice(places: Int[Tensor, " n"]) -> Places:
    """Return positions as a slice if they follow one another, else as they are."""
    first, size = int(places[0]) if len(places) else 0, len(places)
    follow = bool((places == torch.arange(first, first + size, device=places.device)).all())
    return slice(first, first + size) if follow else places
