"""Reference layers, one of each kind of token mixing: a few lines each, with the operator that each of them is.

`LAYERS` names the classes; each is called with a width and a seed.
"""

from __future__ import annotations

from collections.abc import Callable

from mambascope.models.layers.gated_convolutions import GSS, Hyena
from mambascope.models.layers.linear_attention import GLA, HGRN2, LinearAttention, RetNet
from mambascope.models.layers.rwkv import RWKV6, RWKV7
from mambascope.models.layers.s5 import S5
from mambascope.models.layers.selective import SSD, Mamba3, SelectiveSSM
from mambascope.models.layers.sequence_layer import SequenceLayer
from mambascope.models.layers.softmax_head import SoftmaxHead
from mambascope.models.layers.time_invariant import DSS, S4, S4D

#: Layers by name: fixed mixers, fixed ones behind gates, those whose mixing follows the tokens, and softmax attention.
LAYERS: dict[str, Callable[..., SequenceLayer]] = {
    layer.__name__: layer
    for layer in (
        *(S4, S4D, DSS, S5),
        *(GSS, Hyena),
        *(LinearAttention, RetNet, GLA, HGRN2, RWKV6, RWKV7, SelectiveSSM, SSD, Mamba3),
        SoftmaxHead,
    )
}

__all__ = ["LAYERS", "SequenceLayer", *LAYERS]
