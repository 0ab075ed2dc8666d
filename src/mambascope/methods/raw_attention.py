"""Raw attention (Ali, Zimerman & Wolf, arXiv 2403.01590, section 4.1): a layer's hidden attention, rescaled to [0, 1].

The target's rows of all channels are shifted and scaled together, so that their smallest value is 0 and their largest
is 1 (padding excluded), then averaged over channels; a model's raw attention is the mean over its layers from a first
one on.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.method import HIDDEN_ATTENTION, Method
from mambascope.methods.reference_code import Variant, check_variant, min_max, real_tokens, reference_row
from mambascope.methods.targets import looks_ahead, of_each_text, without_padding
from mambascope.operators.token_mixer import TokenMixer
from mambascope.trace import Trace

#: Number of targets whose rows of all channels are held at a time.
ROWS = 16


@checked
def raw_attention_row(trace: Trace, layer: int, target: int, variant: Variant = "published") -> Float[Tensor, "b L"]:
    """Return one layer's raw attention of one target, in time and memory linear in L.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        target: Position i; negative numbers count back from each text's own last token.
        variant: `reference-code` stops the decay one step early and sets the target's own entry to 0, as the paper's
            code does. That code then drops the target; here it keeps its place, with the score 0.

    Raises:
        InputError: if the layer, target or variant does not exist, or the target is padding in one of the texts.
        UnsupportedModelError: if the layer has several mixers side by side, or the variant is `reference-code` and the
            layer is no selective scan.
    """
    check_variant(variant)
    scan, length, ahead = _scan(trace, layer), trace.shape[1], looks_ahead(trace, layer)

    def row(place: int) -> tuple[Tensor]:
        found = scan.skip.new_zeros(trace.shape)
        seen = length if ahead else place + 1
        if variant == "reference-code":
            maps = reference_row(trace, layer, place)[..., :seen]
        else:
            maps = scan.tile(slice(place, place + 1), slice(0, seen))[:, :, 0]
        found[:, :seen] = min_max(maps, real_tokens(trace, seen)).mean(dim=1)
        if variant == "reference-code":
            found[:, place] = 0
        return (found,)

    return of_each_text(trace, target, row)[0]


@checked
def raw_attention(trace: Trace, layer: int) -> Float[Tensor, "b L L"]:
    """Return one layer's raw attention of every target, zero where a target cannot see; extra memory is linear in L.

    Raises:
        InputError: if the layer does not exist.
        UnsupportedModelError: if it has several mixers side by side.
        MapTooLargeError: if the map would not fit in memory.
    """
    scan, ahead = _scan(trace, layer), looks_ahead(trace, layer)
    batch, length = trace.shape
    require_room((batch, length, length), scan.skip, "explain one position, or shorten the text")
    out = scan.skip.new_zeros(batch, length, length)
    for first in range(0, length, ROWS):
        rows = slice(first, min(first + ROWS, length))
        tile = scan.tile(rows, slice(0, length if ahead else rows.stop))
        for place, target in enumerate(range(rows.start, rows.stop)):
            seen = length if ahead else target + 1
            out[:, target, :seen] = min_max(tile[:, :, place, :seen], real_tokens(trace, seen)).mean(dim=1)
    return without_padding(trace, out)


def _scan(trace: Trace, layer: int) -> TokenMixer:
    """Return a layer's token mixing; maps that are brought to [0, 1] one by one cannot be added up over mixers."""
    return trace.layers[trace.index(layer)].branch.operator().scan


METHODS = [
    Method(
        "raw-attention",
        "hidden attention rescaled to [0, 1], averaged over channels",
        HIDDEN_ATTENTION,
        signed=False,
        row=raw_attention_row,
        map=raw_attention,
        reference_code=True,
        column="raw attention",
    ),
]
