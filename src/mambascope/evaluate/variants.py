"""The methods of an evaluation: which variant a name means, and which methods can read a model.

`rollout` means the published formulas of that method, `rollout:reference-code` what its authors' code computes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.families import kinds_of
from mambascope.methods.method import SCAN, Method
from mambascope.methods.reference_code import Variant, check_variant
from mambascope.methods.registry import METHODS, find_method


def find_variant(name: str) -> tuple[Method, Variant]:
    """Return the method of this name and its variant, `published` unless the name says otherwise.

    Raises:
        InputError: if there is no such method, or it has no such variant.
    """
    plain, colon, variant = name.partition(":")
    method = find_method(plain)
    if not colon:
        return method, "published"
    check_variant(variant)
    if variant == "reference-code" and not method.reference_code:
        able = ", ".join(one.name for one in METHODS.values() if one.reference_code)
        raise InputError(f"{plain} has one variant; ':reference-code' is for {able}")
    return method, "reference-code" if variant == "reference-code" else "published"


def supported_methods(model: nn.Module) -> list[str]:
    """Return the names of the methods that can read every layer of a model.

    Raises:
        UnsupportedModelError: if the model has no layer that mambascope can read.
    """
    kinds = kinds_of(model)
    return [method.name for method in METHODS.values() if method.reads(kinds)]


def check_supported(model: nn.Module, methods: Sequence[str]) -> None:
    """Raise unless every method can read every layer of a model, so that a run fails before it starts.

    Reference-code variants read selective scans alone.

    Raises:
        InputError: if there is no method of a name, or it has no such variant.
        UnsupportedModelError: if a method cannot read some layer of the model; the message lists those that can.
    """
    found = {name: find_variant(name) for name in methods}
    able = supported_methods(model)
    scans = kinds_of(model) <= SCAN
    unable = [
        name
        for name, (method, variant) in found.items()
        if method.name not in able or (variant == "reference-code" and not scans)
    ]
    if unable:
        name = getattr(model, "name_or_path", "") or type(model).__name__
        raise UnsupportedModelError(f"{', '.join(unable)} cannot read {name}; these can: {', '.join(able)}")
