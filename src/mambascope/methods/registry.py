"""Every method by name, collected from the files that define them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods.method import Method, says_kinds
from mambascope.numbering import shown
from mambascope.registry import Registry
from mambascope.trace import Trace

#: The files that define methods, in the order in which they are listed.
FILES = (
    "latim",
    "alti",
    "alti_logit",
    "hidden_attention",
    "raw_attention",
    "rollout",
    "mamba_attribution",
    "implicit_attention",
    "mamba_lrp",
    "gradients",
    "norm_based",
    "transformer_attribution",
    "value_zeroing",
    "interventions",
    "occlusion",
    "control",
)

METHODS: Registry[Method] = Registry(
    "method", Method, (method for file in FILES for method in import_module(f"mambascope.methods.{file}").METHODS)
)

register = METHODS.register


def find_method(name: str) -> Method:
    """Return the method of this name; raises InputError with the names of all methods if there is none."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"unknown method {shown(name)}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def check_readable(method: Method, trace: Trace, layers: Sequence[int] | None = None) -> None:
    """Raise UnsupportedModelError unless every layer that is explained is of a kind that the method can read.

    Args:
        method: The method.
        trace: A capture.
        layers: The numbers of the layers asked for; a method that explains the model reads all of them in any case.
    """
    some = method.scope == "layer" and layers is not None
    blocks = [trace.layers[number] for number in layers or ()] if some else trace.layers
    kinds = {kind for block in blocks for kind in block.kinds}
    if not method.reads(kinds):
        able = ", ".join(one.name for one in METHODS.values() if one.reads(kinds) and one.scope == method.scope)
        reads = f"{says_kinds(method.never_alone)} only beside others" if kinds <= method.never_alone else ""
        raise UnsupportedModelError(
            f"{method.name} reads {reads or says_kinds(method.kinds or ())}, but this model mixes tokens by "
            f"{says_kinds(kinds)}; similar methods that can read it: {able}"
        )
