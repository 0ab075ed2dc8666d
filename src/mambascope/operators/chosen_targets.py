"""Blocks of pairs cut down to some targets, which may be scattered, and into pieces of a size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from mambascope.operators.blocks import Block, Places, split
from mambascope.operators.permutation import as_slice


def pieces(block: Block, targets: Places | None, rows: int, columns: int) -> Iterator[Block]:
    """Yield a block in pieces of at most `rows` targets and `columns` sources, as `split` does, of some targets alone.

    Args:
        block: The block; its rows are a slice.
        targets: Which targets: a slice, or ascending numbers of positions; None for all.
        rows: Most targets of a piece.
        columns: Most sources of a piece.
    """
    if targets is None:
        yield from split(block, rows, columns)
        return
    first, last = block.rows.start, block.rows.stop
    if isinstance(targets, slice):
        first, last = max(first, targets.start), min(last, targets.stop)
        if first < last:
            yield from split(replace(block, rows=slice(first, last)), rows, columns)
        return
    own = targets[(targets >= first) & (targets < last)]
    if len(own):  # cut them as if they were consecutive
        for piece in split(replace(block, rows=slice(0, len(own))), rows, columns):
            yield replace(piece, rows=as_slice(own[piece.rows]))


def within(blocks: Iterable[Block], targets: slice | None) -> Iterator[Block]:
    """Yield blocks cut down to a slice of targets, otherwise as large as they are; None for all targets."""
    for block in blocks:
        yield from pieces(block, targets, *block.shape)


def within_band(block: Block, band: slice) -> slice:
    """Return where the targets of a block are among those of a band."""
    return slice(block.rows.start - band.start, block.rows.stop - band.start)


def end(targets: Places) -> int:
    """Return the position after the last of some targets."""
    return targets.stop if isinstance(targets, slice) else int(targets[-1]) + 1


def strips(targets: Int[Tensor, " n"], size: int) -> Iterator[Int[Tensor, " s"]]:
    """Yield ascending targets, at most `size` of them at a time."""
    yield from (one for one in torch.split(targets, size) if len(one))
