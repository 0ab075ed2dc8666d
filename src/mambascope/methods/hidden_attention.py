"""Hidden attention (Ali, Zimerman & Wolf, *The Hidden Attention of Mamba Models*, arXiv 2403.01590, eq. 14).

The matrix alpha with which a selective scan mixes its own input: o = alpha s + D s. Mamba-2's form is the state-space
duality of Dao & Gu (arXiv 2405.21060, eq. 16).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mambascope.errors import InputError
from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.method import HIDDEN_ATTENTION, Method
from mambascope.methods.targets import band_of, of_each_text, padded_sources_zero, without_padding
from mambascope.numbering import shown, whole_number
from mambascope.operators.blocks import Block, Workspace
from mambascope.operators.chosen_targets import pieces, within, within_band
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import Trace

#: Targets and sources per tile: a tile of all channels then takes a few tens of megabytes.
TILE = 64


@checked
def hidden_attention(
    trace: Trace,
    layer: int,
    channels: Literal["mean"] | Sequence[int] | None = None,
    *,
    targets: slice | None = None,
) -> Float[Tensor, "b *M t L"]:
    """Return one layer's hidden attention; row i is the target, column j the source, zero where i cannot see j.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        channels: None for every channel (Mamba-1) or head (Mamba-2), `"mean"` for their mean, or the numbers of some.
        targets: The rows to return, a slice of consecutive positions; by default all.

    Returns:
        (b, D, t, L) for Mamba-1, (b, H, t, L) for Mamba-2, fewer maps if some were chosen, or (b, t, L) for the mean;
        t is L unless targets are chosen.

    Raises:
        InputError: if the layer, a channel or the targets do not exist.
        MapTooLargeError: if the maps would not fit in memory.
    """
    if channels == "mean":
        return hidden_attention_mean(trace, layer, targets)
    scan = trace.operator(layer).scan
    batch, length = trace.shape
    chosen, rows = chosen_maps(channels, scan.maps), band_of(targets, length)
    shape = (batch, len(chosen), rows.stop - rows.start, length)
    require_room(shape, scan.skip, 'ask for channels="mean" or for a few channels, or shorten the text')
    maps = scan.skip.new_zeros(shape)
    for block, tile in map_tiles(scan, rows) if channels is None else pair_tiles(scan, chosen, rows):
        maps[:, :, within_band(block, rows), block.columns] = tile
    return without_padding(trace, maps, rows)


def hidden_attention_mean(trace: Trace, layer: int, targets: slice | None = None) -> Float[Tensor, "b t L"]:
    """Return the mean over channels: one matrix product of inner size D·N per block of the causal triangle.

    Of mixers that stand side by side, the sum of their means, each by the factor with which it is added.
    """
    batch, length = trace.shape
    rows = band_of(targets, length)
    scans = _scans(trace, layer)
    shape = (batch, rows.stop - rows.start, length)
    require_room(shape, scans[0][1].skip, "shorten the text")
    mean = scans[0][1].skip.new_zeros(shape)
    for scale, scan in scans:
        for block, tile in mean_tiles(scan, rows):
            mean[:, within_band(block, rows), block.columns] += scale * tile
    return without_padding(trace, mean, rows)


def _scans(trace: Trace, layer: int) -> list[tuple[float, TokenMixer]]:
    """Return the scan of every mixer of a layer, with the factor by which the mixer's output is added."""
    return [(branch.scale, branch.operator().scan) for branch in trace.layers[trace.index(layer)].branches]


def map_tiles(scan: TokenMixer, targets: slice | None = None) -> Iterator[tuple[Block, Float[Tensor, "b M t c"]]]:
    """Yield the matrices of all maps for every block of pairs; a tile is valid until the next one is yielded."""
    if scan.maps < len(scan.skip):
        yield from pair_tiles(scan, targets=targets)
        return
    workspace = Workspace()  # where every channel has a map, blocks away from the diagonal are matrix products
    for coarse in scan.blocks():
        for block in pieces(coarse, targets, TILE, TILE):
            yield block, scan.mix(block, None, None, workspace)


def pair_tiles(
    scan: TokenMixer, chosen: list[int] | None = None, targets: slice | None = None
) -> Iterator[tuple[Block, Float[Tensor, "b M t c"]]]:
    """Yield the matrices of some maps, or of all, pair by pair: slower, but to smaller values than `map_tiles`."""
    for coarse in scan.blocks():
        for block in pieces(coarse, targets, TILE, TILE):
            yield block, scan.tile(block.rows, block.columns, chosen)


def mean_tiles(scan: TokenMixer, targets: slice | None = None) -> Iterator[tuple[Block, Float[Tensor, "b t c"]]]:
    """Yield the mean over channels for every block of pairs; a tile is valid until the next one is yielded."""
    workspace = Workspace()
    for block in within(scan.mean_blocks(), targets):
        yield block, scan.mean(block, None, None, workspace)


@checked
def hidden_attention_row(trace: Trace, layer: int, target: int) -> Float[Tensor, "b L"]:
    """Return the mean map's row of one target, in O(L·D·N) time and O(L·D) memory.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        target: Position i; negative numbers count back from each text's own last token.

    Raises:
        InputError: if the layer or the target does not exist, or the target is padding in one of the texts.
    """
    scans, length = _scans(trace, layer), trace.shape[1]

    def row(place: int) -> tuple[Tensor]:
        found = scans[0][1].skip.new_zeros(trace.shape)
        for scale, scan in scans:
            seen = place + 1 if scan.causal else length
            found[:, :seen] += scale * scan.tile(slice(place, place + 1), slice(0, seen)).mean(dim=1)[:, 0]
        return (found,)

    return padded_sources_zero(trace, of_each_text(trace, target, row)[0])


def chosen_maps(channels: Iterable[int] | str | None, count: int) -> list[int]:
    """Return the numbers of the chosen maps; raises InputError if one does not exist."""
    if channels is None:
        return list(range(count))
    if isinstance(channels, (str, bytes, Set, Mapping)) or not isinstance(channels, Iterable):
        raise InputError(f'channels is {shown(channels)}; pass None, "mean", or the numbers of some channels')
    chosen = [whole_number(channel, "channel") for channel in channels]
    wrong = [channel for channel in chosen if not 0 <= channel < count]
    if wrong or not chosen:
        raise InputError(f"channels {wrong or chosen} do not exist: this layer has {count} maps, 0 to {count - 1}")
    return chosen


METHODS = [
    Method(
        "hidden-attention",
        "the scan's own matrix, averaged over channels",
        HIDDEN_ATTENTION,
        signed=True,
        row=hidden_attention_row,
        map=hidden_attention_mean,
        band=hidden_attention_mean,
    ),
]
