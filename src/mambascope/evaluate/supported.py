"""Which methods can read a model: a refusal before a run starts, in place of a failure in the middle."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mambascope.errors import UnsupportedModelError
from mambascope.evaluate.forms import find_form
from mambascope.families import kinds_of
from mambascope.methods.method import SCAN
from mambascope.methods.registry import METHODS


def supported_methods(model: nn.Module) -> list[str]:
    """Return the names of the methods that can read every layer of a model.

    Raises:
        UnsupportedModelError: if the model has no layer that mambascope can read.
    """
    kinds = kinds_of(model)
    return [method.name for method in METHODS.values() if method.reads(kinds)]


def check_supported(model: nn.Module, methods: Sequence[str]) -> None:
    """Raise unless every method exists and can read every layer of a model; reference-code variants read scans alone.

    Raises:
        InputError: if there is no method of a name, or it has no such form.
        UnsupportedModelError: if the model has layers that one of them cannot read; the message lists those that can.
    """
    forms = {name: find_form(name) for name in methods}
    able = supported_methods(model)
    scans = kinds_of(model) <= SCAN
    unable = [
        n for n, (method, form) in forms.items() if method.name not in able or (form == "reference-code" and not scans)
    ]
    if unable:
        name = getattr(model, "name_or_path", "") or type(model).__name__
        raise UnsupportedModelError(f"{', '.join(unable)} cannot read {name}; these can: {', '.join(able)}")
