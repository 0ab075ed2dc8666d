"""Channels with matrices of their own (Mamba-1, RWKV-4, RG-LRU), taken together in groups of like memory.

Such a layer has as many matrices as channels, more than anyone can look at. Sorted by memory length, which is the
mean distance of source and target weighted by |α|, they are cut into groups of equal size; a group's map is the mean of
|α| over its channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mambascope.memory import require_room
from mambascope.operators.blocks import Block, Workspace, split
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import Trace

#: Groups of a layer; their sizes differ by one at most.
GROUPS = 16
#: Targets and sources of all channels that are held at once.
TILE = 64

#: The group of every channel, from the shortest memory to the longest, by the mixer's name and layer.
Groups = Mapping[tuple[str, int], Int[Tensor, " M"]]


def channel_groups(trace: Trace, count: int = GROUPS) -> Groups:
    """Return the groups of every mixer whose channels have matrices of their own, if they are more than the groups.

    Args:
        trace: A capture of texts without padding, on which the memory length is measured, over the targets of the
            second half.
        count: How many groups there are.
    """
    found = {}
    for layer, block in enumerate(trace.layers):
        for branch in block.branches:
            operator: Any = branch.operator()
            scan = operator.scan
            if by_channel(scan, count):
                order = memory_lengths(scan, *trace.shape).argsort(stable=True)
                parts = torch.arange(count, device=order.device).repeat_interleave(
                    torch.tensor([len(part) for part in order.tensor_split(count)], device=order.device)
                )
                found[branch.name, layer] = torch.empty_like(order).scatter_(0, order, parts)
    return found


def by_channel(scan: TokenMixer, count: int = GROUPS) -> bool:
    """Return whether a mixer has a matrix for every channel (of RWKV-4, for its two sums), and more than the groups."""
    return scan.maps > count and len(scan.skip) <= 2 * scan.maps


def memory_lengths(scan: TokenMixer, texts: int, length: int) -> Float[Tensor, " M"]:
    """Return each channel's mean distance of source and target, weighted by |α|, over the targets of the second half.

    Args:
        scan: A mixer whose channels have matrices of their own.
        texts, length: How many texts it read, and of how many tokens.
    """
    sums = scan.skip.new_zeros(2, texts, scan.maps, length, dtype=torch.float64)
    places = torch.arange(length, device=sums.device)
    for block, sizes in _tiles(scan):
        lags = (places[block.rows, None] - places[block.columns]).abs()
        sums[0, :, :, block.rows] += (sizes * lags).sum(dim=-1)
        sums[1, :, :, block.rows] += sizes.sum(dim=-1)
    distances, weights = sums[..., length // 2 :]
    return (distances / weights.clamp_min(1e-300)).mean(dim=(0, 2))


def group_maps(scan: TokenMixer, groups: Int[Tensor, " M"], texts: int, length: int) -> Float[Tensor, "b G L L"]:
    """Return each group's mean of |α| over its channels.

    Raises:
        MapTooLargeError: if they would not fit in memory.
    """
    sizes_of = groups.bincount()
    shape = (texts, len(sizes_of), length, length)
    require_room(shape, scan.skip, "shorten the text", copies=3)
    maps = scan.skip.new_zeros(shape)
    for block, sizes in _tiles(scan):
        sums = sizes.new_zeros(texts, len(sizes_of), *sizes.shape[2:])
        maps[:, :, block.rows, block.columns] = sums.index_add_(1, groups, sizes)
    return maps / sizes_of[:, None, None]


def _tiles(scan: TokenMixer) -> Iterator[tuple[Block, Float[Tensor, "b M t c"]]]:
    """Yield |α| of all maps; that is much faster than map by map, as far blocks are matrix products."""
    workspace, each = Workspace(), len(scan.skip) // scan.maps
    for coarse in scan.blocks():
        for block in split(coarse, TILE, TILE):
            yield block, scan.mix(block, None, None, workspace)[:, ::each].abs()
