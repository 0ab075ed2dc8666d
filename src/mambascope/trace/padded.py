"""Padding before a text: recurrent mixers that read no mask read it as if it were text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mambascope.errors import InputError
from mambascope.families import PlainFamily
from mambascope.trace.block import Branch


def check_padding(inputs: Mapping[str, Any], branches: Iterable[Branch]) -> None:
    """Raise InputError if padding comes before real tokens, but a mixer without patch points was given no mask.

    Such a mixer would carry padding into the text, as the stock model does; scores of the text's tokens alone would
    then not be all of its output, and a text would not score as it does by itself.
    """
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not (mask.bool()[:, 1:] & ~mask.bool()[:, :-1]).any():
        return
    for branch in branches:
        if isinstance(branch.family, PlainFamily) and branch.captured.mask is None:
            raise InputError(
                f"padding comes before a text, and {branch.name} ({type(branch.mixer).__name__}) reads it as if it "
                "were text; pad on the right, or pass the texts one by one"
            )
