"""How the causal triangle of (target, source) pairs is cut into blocks, each one stable matrix product."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Positions of a text: a slice, or a tensor of position numbers.
Places = slice | Tensor


@dataclass(frozen=True)
class Block:
    """A rectangle of pairs: targets `rows`, sources `columns`.

    Attributes:
        rows: Targets: a slice in the blocks that are yielded; operators also accept the numbers of scattered targets.
        columns: Sources, a slice of positions.
        reference: For a far block, a position r with j + K - 1 ≤ r ≤ i for every pair, so that the decay from source to
            target splits into two factors with exponents ≤ 0 (methods section 2); None for a block at the diagonal.
        whole_rows: Whether all of a target's sources are cheaper together, so that the block is cut by targets only.
    """

    rows: Any
    columns: Any
    reference: int | None = None
    whole_rows: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Number of targets and of sources."""
        return count(self.rows), count(self.columns)


def count(places: Places) -> int:
    """Return the number of positions."""
    return len(places) if isinstance(places, Tensor) else places.stop - places.start


def numbers(places: Places, device: torch.device) -> Tensor:
    """Return positions as a tensor of numbers."""
    return places if isinstance(places, Tensor) else torch.arange(places.start, places.stop, device=device)


def causal_blocks(length: int, taps: int = 1, base: int = 16) -> Iterator[Block]:
    """Yield disjoint blocks that hold every pair j ≤ i of `length` tokens, halving the triangle down to `base` targets.

    Args:
        length: Number of tokens L.
        taps: K, the positions j … j+K-1 that a source writes to through the convolution; 1 without one.
        base: Largest number of targets in a block on the diagonal. Such blocks reach K-2 sources to the left, and also
            hold future pairs, j > i, which the operators set to zero.
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
    """Yield the block in pieces of at most `rows` targets and `columns` sources, with the same reference.

    A block of whole rows is cut into whole rows, with as many pairs per piece.
    """
    if block.whole_rows:
        rows, columns = max(1, rows * columns // max(block.shape[1], 1)), max(block.shape[1], 1)
    for left in range(block.columns.start, block.columns.stop, columns):
        for top in range(block.rows.start, block.rows.stop, rows):
            yield Block(
                slice(top, min(top + rows, block.rows.stop)),
                slice(left, min(left + columns, block.columns.stop)),
                block.reference,
                block.whole_rows,
            )


def future(block: Block, device: torch.device, reach: int = 0) -> Tensor | None:
    """Return a mask (t, c + reach) of the pairs whose source comes after the target; None if the block has none."""
    rows, columns = block.rows, block.columns
    if isinstance(rows, slice) and isinstance(columns, slice) and columns.stop + reach - 1 <= rows.start:
        return None
    sources = (
        columns if isinstance(columns, Tensor) else torch.arange(columns.start, columns.stop + reach, device=device)
    )
    return sources > numbers(rows, device)[:, None]


def padded_tile(tile: Callable[[Places, slice], Tensor], block: Block, reach: int, length: int) -> Tensor:
    """Return the tile of a block and the `reach` sources to its right, zero beyond the end of the text."""
    stop = min(length, block.columns.stop + reach)
    short, inside = block.columns.stop + reach - stop, tile(block.rows, slice(block.columns.start, stop))
    return F.pad(inside, (0, short)) if short else inside


class Workspace:
    """Buffers that a loop over blocks reuses: fresh pages from the system cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._kept: dict[str, tuple[Hashable, Tensor]] = {}
        self._within: dict[str, Workspace] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised contiguous tensor; what was taken under this name before is overwritten."""
        size = 1
        for length in shape:
            size *= length
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(shape)

    def keep(self, name: str, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor kept under this name if its key is the same; otherwise make a new one and keep that."""
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = key, make()
        return self._kept[name][1]

    def within(self, name: str) -> Workspace:
        """Return the workspace of this name inside this one, with buffers of its own."""
        return self._within.setdefault(name, Workspace())
