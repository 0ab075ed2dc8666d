"""Constructed models by name: `constructed:MECHANISM-ARCHITECTURE`, such as `constructed:recall-mamba2`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transformers import PreTrainedModel

from mambascope.errors import InputError
from mambascope.numbering import shown
from mambascope.theory.constructed.in_delta_net import in_delta_net
from mambascope.theory.constructed.in_mamba import in_mamba
from mambascope.theory.constructed.in_mamba2 import in_mamba2
from mambascope.theory.constructed.in_softmax import in_softmax
from mambascope.theory.constructed.machine import Machine
from mambascope.theory.constructed.mechanism import Architecture, Mechanism
from mambascope.theory.constructed.mechanisms import MECHANISMS

PREFIX = "constructed:"
#: What sets a machine into weights.
SET: Mapping[Architecture, Callable[[Machine], PreTrainedModel]] = {
    "mamba": in_mamba,
    "mamba2": in_mamba2,
    "delta": in_delta_net,
    "softmax": in_softmax,
}


def constructed_models() -> dict[str, tuple[Mechanism, Architecture]]:
    """Return every model's mechanism and architecture by its name, mechanism by mechanism."""
    return {
        f"{PREFIX}{mechanism.name}-{architecture}": (mechanism, architecture)
        for mechanism in MECHANISMS.values()
        for architecture in mechanism.architectures
    }


def mechanism_of(name: str) -> Mechanism:
    """Return the mechanism of the model with this name.

    Raises:
        InputError: if there is no such model.
    """
    return _find(name)[0]


def build(name: str) -> PreTrainedModel:
    """Return the model of this name, in eval mode, without gradients, in float32.

    Raises:
        InputError: if there is no such model.
    """
    mechanism, architecture = _find(name)
    model = SET[architecture](mechanism.machine)
    model.name_or_path = model.config.name_or_path = name
    return model


def _find(name: str) -> tuple[Mechanism, Architecture]:
    known = constructed_models()
    if name not in known:
        raise InputError(f"there is no constructed model {shown(name)}; choose one of {', '.join(known)}")
    return known[name]
