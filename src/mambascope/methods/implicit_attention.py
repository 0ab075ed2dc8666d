"""Unified implicit attention (Zimerman, Ali & Wolf, arXiv 2405.16504): the layer's whole mixing, per channel.

    diag(g) (alpha + D) diag(σ(a)) Toeplitz(w),   acting on u = W_x x

It includes the gate (with Mamba-2's norm) and the convolution. The paper's formula drops D; we keep it, so that the
matrix times u, plus the contribution of the biases, is exactly the input of W_o.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from einops import reduce
from jaxtyping import Float
from torch import Tensor

from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.hidden_attention import chosen_maps
from mambascope.methods.layer_by_layer import rolled
from mambascope.methods.method import IMPLICIT, Method, MethodResult
from mambascope.methods.one_hot import one_hot
from mambascope.methods.targets import band_of, of_each_text, padded_sources_zero, without_padding
from mambascope.operators.chosen_targets import within_band
from mambascope.trace import Trace


@checked
def implicit_attention(
    trace: Trace,
    layer: int,
    channels: Literal["mean"] | Sequence[int] | None = None,
    *,
    targets: slice | None = None,
) -> Float[Tensor, "b *M t L"]:
    """Return one layer's implicit attention; row i is the target, column j the source, zero where i cannot see j.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        channels: None for every channel (Mamba-1) or head (Mamba-2: the mean over its channels), `"mean"` for the mean
            over all channels, or the numbers of some.
        targets: The rows to return, a slice of consecutive positions; by default all.

    Returns:
        (b, D, t, L) for Mamba-1, (b, H, t, L) for Mamba-2, fewer maps if some were chosen, or (b, t, L) for the mean;
        t is L unless targets are chosen.

    Raises:
        InputError: if the layer, a channel or the targets do not exist.
        MapTooLargeError: if the maps would not fit in memory.
    """
    operator = trace.operator(layer)
    batch, length = trace.shape
    rows = band_of(targets, length)
    if channels == "mean":
        require_room((batch, rows.stop - rows.start, length), operator.x, "shorten the text")
        return without_padding(trace, operator.implicit_mean(rows), rows)
    chosen = chosen_maps(channels, operator.scan.maps)
    shape = (batch, len(chosen), rows.stop - rows.start, length)
    require_room(shape, operator.x, 'ask for channels="mean" or for a few channels, or shorten the text')
    maps = operator.x.new_zeros(shape)
    for block, tile in operator.implicit_tiles(rows):
        by_map = reduce(tile, "b (m p) t c -> b m t c", "mean", m=operator.scan.maps)
        maps[:, :, within_band(block, rows), block.columns] = by_map[:, chosen]
    return without_padding(trace, maps, rows)


@checked
def implicit_attention_row(trace: Trace, layer: int, target: int) -> Float[Tensor, "b L"]:
    """Return the mean map's row of one target, in O(L·D·N) time and O(L·D) memory.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        target: Position i; negative numbers count back from each text's own last token.

    Raises:
        InputError: if the layer or the target does not exist, or the target is padding in one of the texts.
    """
    operator = trace.operator(layer)

    def row(place: int) -> tuple[Tensor]:
        found = operator.x.new_zeros(trace.shape)
        found[:, operator.seen(place)] = operator.implicit_row(place)
        return (found,)

    return padded_sources_zero(trace, of_each_text(trace, target, row)[0])


@checked
def implicit_rollout_row(trace: Trace, target: int | Sequence[int]) -> Float[Tensor, "b L"]:
    """Return the target's row of the rollout of implicit attention, Π_λ (I + M̄^λ), in time and memory linear in L.

    The paper's aggregation over layers (section 4), with M̄ the implicit attention averaged over channels: rollout that
    includes the gate, the convolution and the skip.

    Args:
        trace: A capture.
        target: One position, or several, whose rows are averaged; negative numbers count back from each text's own last
            token.
    """
    return rolled(trace, one_hot(trace, target), lambda block, rho: block.operator().implicit_pull(rho))


METHODS = [
    Method(
        "implicit-attention",
        "the scan's matrix with gate, convolution and skip, averaged over channels",
        IMPLICIT,
        signed=True,
        row=implicit_attention_row,
        map=partial(implicit_attention, channels="mean"),
        band=lambda trace, layer, targets: implicit_attention(trace, layer, "mean", targets=targets),
    ),
    Method(
        "implicit-rollout",
        "product over layers of identity plus implicit attention",
        IMPLICIT,
        signed=True,
        score=lambda trace, readout, variant: MethodResult(implicit_rollout_row(trace, readout.positions)),
    ),
]
