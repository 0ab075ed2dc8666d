"""Models by the names that an evaluation takes: those of `load`, and those known by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mambascope.errors import InputError
from mambascope.loading.load import load
from mambascope.numbering import shown
from mambascope.theory.constructed import PREFIX, build


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Return a model and its tokenizer; constructed models, such as `constructed:copy-mamba`, have none.

    Args:
        name: See `mambascope.load`, or a constructed model's name.
        dtype: Its precision; float32 by default.
        device: Where it is; by default the CPU.
        options: Further options of `mambascope.load`, which constructed models do not need.

    Raises:
        InputError: if there is no constructed model of that name, or it cannot be put where it should be, or a
            tokenizer is named for it; and see `mambascope.load`.
    """
    if not (isinstance(name, str) and name.startswith(PREFIX)):
        return load(name, dtype=dtype, device=device, **options)
    if options.get("tokenizer") is not None:
        raise InputError(
            f"{name} has its own tokens and reads no text; leave tokenizer={shown(options['tokenizer'])} out"
        )
    model = build(name)
    try:
        placed = model.to(dtype=dtype or torch.float32, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name} cannot be put on the device {shown(device)[1:-1]}: {reason}") from error
    if placed.device.type == "meta":
        raise InputError("device meta holds no weights, so nothing can be explained there; choose another")
    return placed, None
