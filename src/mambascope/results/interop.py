"""Results in the shapes that other libraries draw: BertViz and CircuitsVis."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mambascope.attribution import Attribution
from mambascope.characters import piece_names
from mambascope.explained import WHOLE_MODEL
from mambascope.results.tables import shares


def to_bertviz(result: Attribution) -> dict[str, Any]:
    """Return the arguments of `bertviz.head_view` and `bertviz.model_view`: `attention` and `tokens`.

    Each layer has one head: the absolute scores of each target, which add up to 1. BertViz draws lines from 0 to 1,
    which have no signs. Targets that were not explained have rows of zeros.
    """
    attention = _square(result, torch.from_numpy(shares(result)).float())
    return {"attention": [layer[None, None] for layer in attention], "tokens": piece_names(result.tokens)}


def to_circuitsvis(result: Attribution) -> dict[str, Any]:
    """Return the arguments of `circuitsvis.attention.attention_heads`, with each layer as one head.

    The scores are as they are, with their signs, on one scale for all layers. Targets that were not explained have rows
    of zeros.
    """
    names = ["whole model" if layer == WHOLE_MODEL else f"layer {layer}" for layer in result.axes["layer"]]
    attention = _square(result, result.scores)
    largest = float(attention.abs().max())
    return {
        "attention": attention,
        "tokens": piece_names(result.tokens),
        "attention_head_names": names,
        "max_value": largest,
        "min_value": -largest,
        "mask_upper_tri": not attention.triu(1).any(),
    }


def _square(result: Attribution, rows: Float[Tensor, "layer target source"]) -> Float[Tensor, "layer L L"]:
    """Return rows of scores with one for every position."""
    square = rows.new_zeros(len(rows), len(result.tokens), len(result.tokens))
    square[:, list(result.axes["target"])] = rows
    return square
