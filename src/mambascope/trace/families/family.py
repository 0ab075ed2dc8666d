"""What mambascope needs to know of a model family: where its scan is called and how its mixer becomes an affine map."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mambascope.operators.affine import AffineMixer


@dataclass(frozen=True, eq=False)
class Captured:
    """What one mixer consumed and gave in one forward pass, in the model's own precision.

    Attributes:
        x: The mixer's input.
        y: The mixer's output.
        scan: Tensors of the scan call, named as in the glossary (`dt` after bias, softplus and clamp; tokens second).
        mask: True at real tokens; None when there is no padding.
    """

    x: Float[Tensor, "b L E"]
    y: Float[Tensor, "b L F"]
    scan: dict[str, Tensor]
    mask: Bool[Tensor, "b L"] | None


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        model_type: `config.model_type` in transformers.
        mixer_class: Name of the mixer's class.
        module: The module that defines it and calls the scan.
        seam: Name of the module-level scan function that the mixer calls.
        token_axis: The axis of tokens in the tensors of a scan call.
        intercept: Given the original seam function and its call, returns what the seam must return and the tensors it
            consumed; `fast` says whether to run our own scan or the original.
        affine: Given the mixer, what was captured, and a dtype, returns the mixer's affine map.
    """

    model_type: str
    mixer_class: str
    module: str
    seam: str
    token_axis: int
    intercept: Callable[..., tuple[Any, dict[str, Tensor]]]
    affine: Callable[[Any, Captured, torch.dtype], AffineMixer]

    def describes(self, mixer: nn.Module) -> bool:
        """Return whether this family's file knows the mixer's class (or a base of it)."""
        return any(base.__module__ == self.module and base.__name__ == self.mixer_class for base in type(mixer).__mro__)

    def source(self) -> ModuleType:
        """Return the module whose scan function is swapped during a capture."""
        return importlib.import_module(self.module)


def weights(parameter: Tensor | None, dtype: torch.dtype, part: slice = slice(None)) -> Any:
    """Return (part of) a parameter in the precision of the operators, cut from the graph; None stays None."""
    return None if parameter is None else parameter.detach()[part].to(dtype)
