"""mambascope: see what a Mamba model looked at.

model, tokenizer = mambascope.load("tiny-mamba")
result = mambascope.explain(model, tokenizer, "When Mary and John went to the store, John gave a drink to")
result.show()
"""

from mambascope.errors import (
    CheckpointError,
    InputError,
    MambascopeError,
    MapTooLargeError,
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
