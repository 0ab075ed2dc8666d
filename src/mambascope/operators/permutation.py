"""Orders in which tokens are read, and sums of parts that read the same tokens in several orders.

    alpha = Σ_r w_r P_rᵀ alpha_r P_r

where P_r brings the tokens into the order in which part r reads them. The parts are scans
(`mambascope.operators.multi_scan`) or whole layers (`mambascope.operators.sum_of_maps`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.operators.blocks import Block, Places, Workspace

M = TypeVar("M", covariant=True)


@dataclass(frozen=True, eq=False)
class Permutation:
    """An order in which tokens are read.

    Attributes:
        tokens: The token that is read at each step.
    """

    tokens: Int[Tensor, " L"]

    __repr__ = brief

    def __post_init__(self) -> None:
        if not torch.equal(self.tokens.sort().values, torch.arange(len(self.tokens), device=self.tokens.device)):
            raise InputError(f"an order of {len(self.tokens)} tokens must contain each token's number exactly once")

    @classmethod
    def identity(cls, length: int, device: torch.device | None = None) -> Permutation:
        """Return the order that leaves the tokens as they are."""
        return cls(torch.arange(length, device=device))

    @cached_property
    def steps(self) -> Int[Tensor, " L"]:
        """The step at which each token is read."""
        return self.tokens.argsort()

    @cached_property
    def is_identity(self) -> bool:
        """Whether tokens are read in their own order."""
        return bool((self.tokens[1:] > self.tokens[:-1]).all())

    @cached_property
    def is_reversal(self) -> bool:
        """Whether tokens are read from the last to the first."""
        return bool((self.tokens[1:] < self.tokens[:-1]).all())

    def read(self, values: Float[Tensor, "b L *s"]) -> Float[Tensor, "b L *s"]:
        """Return values given per token, in the order in which tokens are read."""
        return values if self.is_identity else values[:, self.tokens]

    def restore(self, values: Float[Tensor, "b L *s"]) -> Float[Tensor, "b L *s"]:
        """Return values given per step, in the order of the tokens."""
        return values if self.is_identity else values[:, self.steps]

    def steps_of(self, tokens: Places) -> Places:
        """Return the steps at which these tokens are read, as a slice if they are consecutive."""
        return tokens if self.is_identity and isinstance(tokens, slice) else as_slice(self.steps[tokens])

    def rows(
        self, tokens: Places, blocks: Sequence[Block], tile: Callable[[Block], Tensor], workspace: Workspace
    ) -> Float[Tensor, "*s t L"]:
        """Return the matrix rows of some targets, with targets and sources in the order of the tokens.

        Args:
            tokens: The targets.
            blocks: Blocks of steps that hold every nonzero pair exactly once.
            tile: Given a block cut down to some of its targets, returns its part of the matrix (*s, t, c).
            workspace: Buffers; the answer may live in one.
        """
        steps, ranks = self.steps[tokens].sort()
        edges = torch.searchsorted(steps, steps.new_tensor([[one.rows.start, one.rows.stop] for one in blocks]))
        rows: Tensor | None = None
        for block, (first, last) in zip(blocks, edges.tolist(), strict=True):
            if first < last:
                part = tile(Block(as_slice(steps[first:last]), block.columns, block.reference, block.whole_rows))
                if rows is None:
                    rows = workspace.take("rows", (*part.shape[:-2], len(steps), len(self.tokens)), part).zero_()
                rows[..., first:last, block.columns] = part
        assert rows is not None
        if isinstance(tokens, slice) and self.is_identity:
            return rows
        if isinstance(tokens, slice) and self.is_reversal:
            return rows.flip(-2, -1)
        return rows[..., ranks.argsort()[:, None], self.steps]


@dataclass(frozen=True, eq=False)
class Part(Generic[M]):
    """One part of a sum.

    Attributes:
        mixer: What is added: a scan, or the map of a layer.
        permutation: The order in which it reads the tokens.
        scale: The factor of its output in the sum.
    """

    mixer: M
    permutation: Permutation
    scale: float = 1.0

    __repr__ = brief


def added(parts: Sequence[Part[M]], of: Callable[[Part[M]], Tensor]) -> Tensor:
    """Return the scaled sum over parts of `of(part)`, given per step (b, L, *s), in the order of the tokens."""
    return torch.stack([part.scale * part.permutation.restore(of(part)) for part in parts]).sum(dim=0)


def added_rows(
    parts: Sequence[Part[M]],
    blocks: Sequence[Sequence[Block]],
    tokens: Places,
    tile: Callable[[M, Workspace, Block], Tensor],
    workspace: Workspace,
) -> Float[Tensor, "*s t L"]:
    """Return the scaled sum over parts of the matrix rows of some targets.

    Args:
        parts: The parts.
        blocks: The blocks of each part; see `Permutation.rows`.
        tokens: The targets.
        tile: Given a part's mixer, buffers and a block, returns the block's part of the matrix.
        workspace: Buffers; the answer lives in one.
    """
    inner = workspace.within("parts")
    rows = (
        part.permutation.rows(tokens, own, partial(tile, part.mixer, inner), workspace)
        for part, own in zip(parts, blocks, strict=True)
    )
    return weighed(parts, rows, workspace)


def weighed(parts: Sequence[Part[M]], values: Iterable[Tensor], workspace: Workspace) -> Tensor:
    """Return the sum of one value per part, times its scale; values may live one after another in the same buffer."""
    total: Tensor | None = None
    for part, value in zip(parts, values, strict=True):
        if total is None:
            total = torch.mul(value, part.scale, out=workspace.take("total", tuple(value.shape), value))
        else:
            total.add_(value, alpha=part.scale)
    assert total is not None
    return total


def as_slice(places: Int[Tensor, " n"]) -> Places:
    """Return positions as a slice if they are consecutive, else unchanged."""
    first, size = int(places[0]) if len(places) else 0, len(places)
    follow = bool((places == torch.arange(first, first + size, device=places.device)).all())
    return slice(first, first + size) if follow else places
