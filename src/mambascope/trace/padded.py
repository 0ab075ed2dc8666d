"""Padding before a text: recurrent mixers that read no mask read it as if it were text, and others are moved by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mambascope.errors import InputError
from mambascope.families import Family, PlainFamily
from mambascope.inputs.checks import counts_padding
from mambascope.trace.block import Branch


def check_padding(inputs: Mapping[str, Any], branches: Iterable[Branch]) -> None:
    """Raise InputError if padding comes before real tokens, but a mixer without patch points was given no mask.

    Such a mixer would carry padding into the text, as the stock model does; scores of the text's tokens alone would
    then not be all of its output, and a text would not score as it does by itself.
    """
    if not _comes_before_text(inputs):
        return
    for branch in branches:
        if isinstance(branch.family, PlainFamily) and branch.captured.mask is None:
            raise InputError(
                f"padding comes before a text, and {branch.name} ({type(branch.mixer).__name__}) reads it as if it "
                "were text; pad on the right, or pass the texts one by one"
            )


def moved_by_padding(model: nn.Module, inputs: Mapping[str, Any], branches: Iterable[Branch]) -> str:
    """Return why padding before a text changes what this model computes for the text, as a sentence; empty if not.

    The model's own code makes it so, and a trace holds what the model computed. Two reasons can be seen in the weights:
    positions that are looked up in a table and counted from the padding on, and a convolution that reads a bias where
    padding was masked before the bias was added.
    """
    if not _comes_before_text(inputs):
        return ""
    reason = "counts positions from the padding on" if counts_padding(model, inputs) else ""
    for branch in () if reason else branches:
        if isinstance(branch.family, Family) and branch.family.reads_padding(branch.mixer):
            reason = f"reads biases in place of the padding, first in the convolution of {branch.name}"
            break
    return reason and (
        f"padding before a text changes what this model computes for it: it {reason}; pad on the right, or pass the "
        "texts one by one"
    )


def _comes_before_text(inputs: Mapping[str, Any]) -> bool:
    mask = inputs.get("attention_mask")
    return isinstance(mask, Tensor) and mask.ndim == 2 and bool((mask.bool()[:, 1:] & ~mask.bool()[:, :-1]).any())
