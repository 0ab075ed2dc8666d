"""Where the bias of softmax attention's values is counted: in a layer's bias, or in its sources' contributions."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch

from mambascope.errors import InputError
from mambascope.numbering import shown
from mambascope.operators.affine_map import AffineMap
from mambascope.operators.attention_layer import AttentionLayer
from mambascope.operators.normed_map import NormedMap
from mambascope.operators.sum_of_maps import SumOfMaps

#: Where the bias of attention's values is counted: in the layer's bias, or in the contributions of the sources.
ValueBias = Literal["bias", "source"]


def with_value_bias(operator: AffineMap, value_bias: str) -> AffineMap:
    """Return a layer's map with the bias of attention's values counted as asked; maps of other mixers are unchanged.

    For `source`, a 1 is appended to every token, and b_V to W_V as its column: W_V x_j + b_V is linear in (x_j, 1).

    Raises:
        InputError: if the value bias is neither `bias` nor `source`.
    """
    if value_bias not in get_args(ValueBias):
        raise InputError(f"unknown value_bias {shown(value_bias)}; choose one of {', '.join(get_args(ValueBias))}")
    if isinstance(operator, NormedMap):
        return dataclasses.replace(operator, inner=with_value_bias(operator.inner, value_bias))
    if value_bias == "source" and isinstance(operator, SumOfMaps):
        parts = (dataclasses.replace(part, mixer=with_value_bias(part.mixer, value_bias)) for part in operator.parts)
        return dataclasses.replace(operator, parts=tuple(parts))
    if value_bias == "bias" or not isinstance(operator, AttentionLayer) or operator.b_x is None:
        return operator
    x = torch.cat([operator.x, torch.ones_like(operator.x[..., :1])], dim=-1)
    return dataclasses.replace(operator, x=x, W_x=torch.cat([operator.W_x, operator.b_x[:, None]], dim=1), b_x=None)
