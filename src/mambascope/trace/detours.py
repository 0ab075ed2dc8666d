"""Detours: mixers that a model calls past its private copy, so that a pass would not see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mambascope.errors import UnsupportedModelError


def refuse_detours(model: nn.Module, missing: Iterable[str], run: Callable[[], Any]) -> None:
    """Run a private copy again and look whether weights of mixers that it did not call are used all the same.

    A model may rightly skip layers: then their weights are not used.

    Args:
        model: The model from which the copy was made.
        missing: The names of the mixers that the copy did not call.
        run: Runs the copy.

    Raises:
        UnsupportedModelError: if the weights of one of them are used.
    """
    owners = {weight.data_ptr(): name for name in missing for weight in model.get_submodule(name).parameters()}
    if not owners:
        return
    with torch.no_grad(), _Reading(owners) as reading:
        run()
    if reading.found is not None:
        raise UnsupportedModelError(
            f"this {type(model).__name__} runs {reading.found} by a function that was put in place of a module's "
            "forward and holds the module where mambascope cannot replace it; pass the model as it was before"
        )


class _Reading(TorchFunctionMode):
    """Notes the owner of a weight that a function of torch is given, in this thread."""

    def __init__(self, owners: dict[int, str]) -> None:
        super().__init__()
        self._owners = owners
        self.found: str | None = None

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.found is None:
            given = [value.data_ptr() for value in (*args, *kwargs.values()) if isinstance(value, nn.Parameter)]
            self.found = next((self._owners[place] for place in given if place in self._owners), None)
        return function(*args, **kwargs)
