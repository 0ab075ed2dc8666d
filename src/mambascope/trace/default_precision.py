"""Tensors that a pass makes without naming a precision are float32, whatever the caller's default precision is.

torch's default precision is that of the whole process, so a pass cannot change it: other threads would notice. Within
this mode, which is of one thread, the functions that make tensors are told the precision instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: Functions whose tensors have the default precision unless another is named.
MAKERS = frozenset({torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn, torch.eye, torch.linspace})

#: Functions of which that is so if they are given Python's floats.
OF_FLOATS = frozenset({torch.tensor, torch.full, torch.arange, torch.normal, torch.scalar_tensor})


class SinglePrecision(TorchFunctionMode):
    """Makes float32 what would have the default precision."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        named = given.get("dtype") is not None or given.get("out") is not None
        if not named and (func in MAKERS or (func in OF_FLOATS and _holds_float((*args, *given.values())))):
            given["dtype"] = torch.float32
        return func(*args, **given)


def _holds_float(value: Any) -> bool:
    """Return whether a value is a float of Python or holds one, in lists and tuples."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_float, value))
    return type(value) is float
