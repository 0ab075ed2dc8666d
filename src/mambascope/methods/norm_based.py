"""Norm-based attention (Kobayashi et al., *Attention is Not Only a Weight*, arXiv 2004.10102, section 3).

    ‖Σ_h p^h_ij f^h(x_j)‖,   f^h(x) = (x W_V^h + b_V^h) W_O^h

The attention weight times the vector that it weights, summed over heads before the norm is taken. A source's share
includes the value bias, which LaTIM's ‖T_ij(x_j)‖ leaves in β; the output projection's bias belongs to no source in
either. Where a layer has an output gate, or a norm of its output, both count, frozen: the vector is what is added to
the stream.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.errors import UnsupportedModelError
from mambascope.memory import require_room
from mambascope.methods.checked import checked
from mambascope.methods.method import ATTENTION, Method
from mambascope.methods.targets import of_each_text, without_padding
from mambascope.operators.attention_layer import AttentionLayer
from mambascope.operators.normed_map import NormedMap
from mambascope.trace import Trace


@checked
def norm_based(trace: Trace, layer: int) -> Float[Tensor, "b L L"]:
    """Return ‖Σ_h p^h_ij f^h(x_j)‖ of one attention layer for every target i and source j; O(L²·H·E).

    If the layer's output is multiplied before it is added to the stream, the norm is that of the product.

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.

    Raises:
        InputError: if the layer does not exist.
        UnsupportedModelError: if the layer is not softmax attention.
        MapTooLargeError: if the map would not fit in memory.
    """
    operator, after, scale = _attention(trace, layer)
    batch, length = trace.shape
    require_room((batch, length, length), operator.x, "explain one position, or shorten the text")
    norms = operator.x.new_zeros(batch, length, length)
    for block, tile in operator.tiles_of(operator.values):
        tile = tile if after is None else after.normed_tile(tile, block)
        norms[:, block.rows, block.columns] = scale * torch.linalg.vector_norm(tile, dim=1)
    return without_padding(trace, norms)


@checked
def norm_based_row(trace: Trace, layer: int, target: int) -> Float[Tensor, "b L"]:
    """Return one target's row of `norm_based`, in O(L·D·E).

    Args:
        trace: A capture.
        layer: Number of the layer, from 0; negative numbers count from the end.
        target: Position i; negative numbers count back from each text's own last token.

    Raises:
        InputError: if the layer or the target does not exist, or the target is padding in one of the texts.
        UnsupportedModelError: if the layer is not softmax attention.
    """
    operator, after, scale = _attention(trace, layer)

    def row(place: int) -> tuple[Tensor]:
        seen = operator.seen(place)
        p = operator.scan.channels(operator.scan.tile(slice(place, place + 1), seen))[:, :, 0]
        weighed = p.transpose(1, 2) * operator.values[:, seen] * operator.gate[:, place, None]
        found = operator.x.new_zeros(trace.shape)
        vectors = weighed @ operator.W_o.t()
        vectors = vectors if after is None else after.normed(vectors, slice(place, place + 1))
        found[:, seen] = scale * torch.linalg.vector_norm(vectors, dim=-1)
        return (found,)

    return of_each_text(trace, target, row)[0]


def _attention(trace: Trace, layer: int) -> tuple[AttentionLayer, NormedMap | None, float]:
    """Return a layer's operator if it is softmax attention, the norm that its output passes, and the output's factor.

    The norm is None if there is none; of the factor only the size is returned.
    """
    number = trace.index(layer)
    branch = trace.layers[number].branch
    operator = branch.operator()
    after = operator if isinstance(operator, NormedMap) else None
    operator = operator if after is None else after.inner
    if not isinstance(operator, AttentionLayer):
        raise UnsupportedModelError(
            f"layer {number} ({branch.name}, {type(branch.mixer).__name__}) is no softmax attention, for which "
            "norm-based attention is defined; use latim, its counterpart for any layer"
        )
    return operator, after, abs(branch.scale)


METHODS = [
    Method(
        "norm-based",
        "ℓ2 norm of each source's value vector times its attention, summed over heads",
        "Kobayashi et al. 2020, arXiv 2004.10102",
        signed=False,
        kinds=ATTENTION,
        row=norm_based_row,
        map=norm_based,
    ),
]
