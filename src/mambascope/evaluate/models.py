"""Models by the names that an evaluation takes: those of `load`, and those known by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mambascope.loading.load import load
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
        InputError: if there is no constructed model of that name; and see `mambascope.load`.
    """
    if isinstance(name, str) and name.startswith(PREFIX):
        return build(name).to(dtype=dtype or torch.float32, device=device), None
    return load(name, dtype=dtype, device=device, **options)
