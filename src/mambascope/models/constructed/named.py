"""Constructed models by name: `constructed:MECHANISM-ARCHITECTURE`, such as `constructed:recall-mamba2`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from transformers import PreTrainedModel

from mambascope.errors import InputError
from mambascope.models.constructed.in_delta_net import in_delta_net
from mambascope.models.constructed.in_mamba import in_mamba
from mambascope.models.constructed.in_mamba2 import in_mamba2
from mambascope.models.constructed.in_softmax import in_softmax
from mambascope.models.constructed.machine import Machine
from mambascope.models.constructed.mechanism import Architecture, Mechanism
from mambascope.models.constructed.mechanisms import MECHANISMS
from mambascope.numbering import shown

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
    model = SET[architecture](mechanism.machine_in(architecture))
    model.name_or_path = model.config.name_or_path = name
    return model


def _find(name: str) -> tuple[Mechanism, Architecture]:
    known = constructed_models()
    if name in known:
        return known[name]
    asked = name.removeprefix(PREFIX)
    names = [one.removeprefix(PREFIX) for one in known]
    near = [one for one in names if one.rpartition("-")[0] == asked.rpartition("-")[0]]
    near = near or difflib.get_close_matches(asked, names, n=4)
    hint = (
        f"near it are {', '.join(PREFIX + one for one in near)}"
        if near
        else f"they are named {PREFIX}MECHANISM-ARCHITECTURE, with the mechanisms {', '.join(MECHANISMS)} and the "
        f"architectures {', '.join(SET)}"
    )
    raise InputError(f"there is no constructed model {shown(name)}; {hint}")
