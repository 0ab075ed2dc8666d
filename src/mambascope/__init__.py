"""mambascope: see what a Mamba model looked at.

model, tokenizer = mambascope.load("tiny-mamba")
result = mambascope.explain(model, tokenizer, "When Mary and John went to the store, John gave a drink to")
result.show()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambascope.errors import (
        CheckpointError,
        InputError,
        MambascopeError,
        MapTooLargeError,
        OutputError,
        ReconstructionError,
        UnsupportedModelError,
    )
    from mambascope.explanation import explain, explain_methods
    from mambascope.methods.attribution import Attribution
    from mambascope.methods.hidden_attention import hidden_attention
    from mambascope.methods.implicit_attention import implicit_attention
    from mambascope.methods.latim import contributions, latim
    from mambascope.methods.registry import METHODS
    from mambascope.trace import LayerRecord, Trace, capture
    from mambascope.trace.bundled import bundled_models
    from mambascope.trace.load import load

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Attribution",
    "CheckpointError",
    "InputError",
    "LayerRecord",
    "MambascopeError",
    "MapTooLargeError",
    "OutputError",
    "ReconstructionError",
    "Trace",
    "UnsupportedModelError",
    "bundled_models",
    "capture",
    "contributions",
    "explain",
    "explain_methods",
    "hidden_attention",
    "implicit_attention",
    "latim",
    "load",
]

#: Where each public name lives. It is fetched on first use: torch and transformers take seconds to import.
_HOMES = {
    "Attribution": "mambascope.methods.attribution",
    "CheckpointError": "mambascope.errors",
    "InputError": "mambascope.errors",
    "LayerRecord": "mambascope.trace",
    "METHODS": "mambascope.methods.registry",
    "MambascopeError": "mambascope.errors",
    "MapTooLargeError": "mambascope.errors",
    "OutputError": "mambascope.errors",
    "ReconstructionError": "mambascope.errors",
    "Trace": "mambascope.trace",
    "UnsupportedModelError": "mambascope.errors",
    "bundled_models": "mambascope.trace.bundled",
    "capture": "mambascope.trace",
    "contributions": "mambascope.methods.latim",
    "explain": "mambascope.explanation",
    "explain_methods": "mambascope.explanation",
    "hidden_attention": "mambascope.methods.hidden_attention",
    "implicit_attention": "mambascope.methods.implicit_attention",
    "latim": "mambascope.methods.latim",
    "load": "mambascope.trace.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mambascope' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
