"""One call of a mixer: what it read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mambascope.errors import ReconstructionError
from mambascope.families import Captured, MixerFamily, PlainFamily


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


def tensors_read(
    name: str, mixer: nn.Module, family: MixerFamily, kwargs: Mapping[str, Any]
) -> tuple[dict[str, Tensor], ...]:
    """Return the tensors besides its input that a mixer without patch points read, as one scan; none if it reads none.

    Raises:
        ReconstructionError: if the mixer was called without one of them.
    """
    names = family.arguments if isinstance(family, PlainFamily) else ()
    missing = [one for one in names if not isinstance(kwargs.get(one), Tensor)]
    if missing:
        raise ReconstructionError(
            f"{name} ({type(mixer).__name__}) was called without {', '.join(missing)}, which its mixing depends on "
            f"({versions()})"
        )
    return ({one: kwargs[one].detach() for one in names},) if names else ()


def versions() -> str:
    """Return the versions of the libraries whose code a mixer is, for messages."""
    return f"transformers {transformers.__version__}, torch {torch.__version__}"
