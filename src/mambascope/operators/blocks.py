"""How the causal triangle of (target, source) pairs is cut into blocks, each one stable matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """A rectangle of pairs: targets `rows`, sources `columns`.

    Attributes:
        rows: Targets, a slice of positions.
        columns: Sources, a slice of positions.
        reference: For a far block, a position r with j + K - 1 ≤ r ≤ i for every pair, so that the decay from source to
            target splits into two factors with exponents ≤ 0 (methods section 2); None for a block at the diagonal.
    """

    rows: slice
    columns: slice
    reference: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of targets and of sources."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def causal_blocks(length: int, taps: int = 1, base: int = 16) -> Iterator[Block]:
    """Yield disjoint blocks that hold every pair j ≤ i of `length` tokens, halving the triangle down to `base` targets.

    Args:
        length: Number of tokens L.
        taps: K, the positions j … j+K-1 that a source writes to through the convolution; 1 without one.
        base: Largest number of targets of a block at the diagonal. Such blocks reach K-2 sources to the left, and hold
            the pairs of the future, j > i, too: the operators set them to zero.
    """
    yield from _region(0, length, 0, taps, base)


def _region(first: int, last: int, left: int, taps: int, base: int) -> Iterator[Block]:
    if last - first <= base:
        if first < last and left < last:
            yield Block(slice(first, last), slice(left, last))
        return
    middle = (first + last) // 2
    edge = max(left, middle - taps + 2)
    yield from _region(first, middle, left, taps, base)
    if edge > left:
        yield Block(slice(middle, last), slice(left, edge), reference=middle)
    yield from _region(middle, last, edge, taps, base)


def split(block: Block, rows: int, columns: int) -> Iterator[Block]:
    """Yield the block in pieces of at most `rows` targets and `columns` sources, with the same reference."""
    for left in range(block.columns.start, block.columns.stop, columns):
        for top in range(block.rows.start, block.rows.stop, rows):
            yield Block(
                slice(top, min(top + rows, block.rows.stop)),
                slice(left, min(left + columns, block.columns.stop)),
                block.reference,
            )


def future(block: Block, device: torch.device, reach: int = 0) -> Tensor | None:
    """Return a mask (t, c + reach) of the pairs with source after target, or None when the block has none."""
    if block.columns.stop + reach - 1 <= block.rows.start:
        return None
    targets = torch.arange(block.rows.start, block.rows.stop, device=device)
    sources = torch.arange(block.columns.start, block.columns.stop + reach, device=device)
    return sources > targets[:, None]


def padded_tile(tile: Callable[[slice, slice], Tensor], block: Block, reach: int, length: int) -> Tensor:
    """Return the tile of a block with the `reach` sources to its right, zero where the text has ended."""
    stop = min(length, block.columns.stop + reach)
    return F.pad(tile(block.rows, slice(block.columns.start, stop)), (0, block.columns.stop + reach - stop))


class Workspace:
    """Buffers that a loop over blocks uses again: fresh pages from the system cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised contiguous tensor; what was taken under this name before is overwritten."""
        size = 1
        for length in shape:
            size *= length
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(shape)
