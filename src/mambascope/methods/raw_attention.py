"""Raw attention (Ali, Zimerman & Wolf, arXiv 2403.01590, section 4.1): a layer's hidden attention, brought to [0, 1].

The target's row of every channel is shifted and scaled together, so that the smallest value of the row is 0 and the
largest 1 (padding takes no part), then averaged over channels; a model's raw attention is the mean over its layers from
a first one on.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mambascope.methods.memory import require_room
from mambascope.methods.released import Compat, check_compat, min_max, real_tokens, released_row
from mambascope.trace import Trace

#: Targets whose rows of all channels are held at a time.
ROWS = 16


def raw_attention_row(trace: Trace, layer: int, target: int, compat: Compat = "published") -> Float[Tensor, "b L"]:
    """Return one layer's raw attention of one target, in time and memory linear in L.

    Args:
        trace: A capture.
        layer: Number of the mixer, from 0; negative numbers count from the end.
        target: Position i.
        compat: `released` stops the decay one step early, as the released code does.

    Raises:
        InputError: if the layer or compat does not exist.
        UnsupportedModelError: if released behaviour is asked of softmax attention.
    """
    check_compat(compat)
    batch, length = trace.shape
    scan = trace.operator(layer).scan
    row = scan.skip.new_zeros(batch, length)
    seen = target + 1 if scan.causal else length
    if compat == "released":
        maps = released_row(trace, layer, target)[..., :seen]
    else:
        maps = scan.tile(slice(target, target + 1), slice(0, seen))[:, :, 0]
    row[:, :seen] = min_max(maps, real_tokens(trace, seen)).mean(dim=1)
    return row


def raw_attention(trace: Trace, layer: int) -> Float[Tensor, "b L L"]:
    """Return one layer's raw attention of every target, zero where a target cannot see; memory beyond it is linear.

    Raises:
        InputError: if the layer does not exist.
        MapTooLargeError: if the map would not fit in memory.
    """
    scan = trace.operator(layer).scan
    batch, length = trace.shape
    require_room((batch, length, length), scan.skip, "explain one position, or shorten the text")
    out = scan.skip.new_zeros(batch, length, length)
    for first in range(0, length, ROWS):
        rows = slice(first, min(first + ROWS, length))
        tile = scan.tile(rows, slice(0, rows.stop if scan.causal else length))
        for place, target in enumerate(range(rows.start, rows.stop)):
            seen = target + 1 if scan.causal else length
            out[:, target, :seen] = min_max(tile[:, :, place, :seen], real_tokens(trace, seen)).mean(dim=1)
    return out
