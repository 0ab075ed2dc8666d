"""One call of a mixer: what it read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mambascope.families import Captured


def input_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the tokens that a mixer was called with."""
    return args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))


def consumed(x: Tensor, output: Any, kwargs: Mapping[str, Any], scans: tuple[dict[str, Tensor], ...] = ()) -> Captured:
    """Return what a mixer consumed and gave, its tokens in line."""
    y = output[0] if isinstance(output, tuple) else output
    mask = kwargs.get("attention_mask")
    mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None  # attention's own mask has pairs of tokens
    grid = None
    if x.ndim == 4:  # tokens as they lie in a picture
        grid = (x.shape[1], x.shape[2])
        x, y = x.flatten(1, 2), y.flatten(1, 2)
    return Captured(x, y, scans, None if mask is None else mask.bool(), grid)
