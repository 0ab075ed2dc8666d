"""Texts packed into one row: their positions start anew, and attention must keep them apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mambascope.errors import InputError
from mambascope.trace.block import Branch


def check_apart(inputs: Mapping[str, Any], branches: Iterable[Branch]) -> None:
    """Raise InputError if position_ids start anew within a row, but a mixer let a token reach another text.

    transformers tells such texts apart in causal attention without a padding mask, and nowhere else.
    """
    places = inputs.get("position_ids")
    if places is None or inputs.get("attention_mask") is not None or not (places.diff(dim=-1) < 1).any():
        return
    text = (places.diff(dim=-1, prepend=places[:, :1] - 1) < 1).cumsum(dim=-1)
    across = text[:, None, :, None] != text[:, None, None, :]
    for branch in branches:
        p = branch.captured.scans[0].get("p") if branch.kind == "attention" else None
        if p is None or (p.bool() & across).any():
            raise InputError(
                f"position_ids start anew within a row, but {branch.name} ({type(branch.mixer).__name__}) reads the "
                "row as one text; pass each text in a row of its own"
            )
