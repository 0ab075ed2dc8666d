"""Model families: one small file each, saying where its tensors are. To add one, write its file and list it here."""

from __future__ import annotations

from torch import nn

from mambascope.errors import UnsupportedModelError
from mambascope.trace.families import falcon_mamba, mamba, mamba2
from mambascope.trace.families.family import Captured, Family, ScanCall

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (mamba.FAMILY, falcon_mamba.FAMILY, mamba2.FAMILY)
}

__all__ = ["FAMILIES", "Captured", "Family", "ScanCall", "find_mixers"]


def find_mixers(model: nn.Module) -> list[tuple[str, nn.Module, Family]]:
    """Return name, module and family of every selective-scan mixer of a model, in the order of its layers.

    Raises:
        UnsupportedModelError: if there is none, or one of a class that no family describes.
    """
    mixers = []
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "A_log", None), nn.Parameter):
            continue
        family = next((f for f in FAMILIES.values() if f.describes(module)), None)
        if family is None:
            raise UnsupportedModelError(
                f"{name or 'the model'} is a {type(module).__name__}, a state-space mixer that mambascope cannot read "
                f"yet; supported are {supported()}"
            )
        mixers.append((name, module, family))
    if not mixers:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds no selective-scan mixer; supported are models with {supported()}"
        )
    return mixers


def supported() -> str:
    """Return the names of the mixer classes that can be read, for messages."""
    return ", ".join(family.mixer_class for family in FAMILIES.values())
