"""Small language models of every family: scans, decoders and hybrids."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hybrids import HYBRIDS, hybrid_model, in_double
from models import FAMILIES, TRANSFORMERS, stock_model, stock_transformer, without_downcasts

DECODERS = [name for name in TRANSFORMERS if name not in ("bert", "vit")]
EVERY = [*FAMILIES, *DECODERS, *HYBRIDS]


def small(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return a small model of a family."""
    if family in HYBRIDS:
        return hybrid_model(family, dtype)
    return stock_model(family, dtype) if family in FAMILIES else stock_transformer(family, dtype)


@contextmanager
def small_in_float64(family: str) -> Iterator[Any]:
    """Yield a small model of a family that computes in float64 throughout."""
    if family in HYBRIDS:
        with in_double(family) as model:
            yield model
    else:
        with without_downcasts(family):
            yield small(family, torch.float64)
