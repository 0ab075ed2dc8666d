"""mambascope: see what a Mamba model looked at.

model, tokenizer = mambascope.load("tiny-mamba")
result = mambascope.explain(model, tokenizer, "When Mary and John went to the store, John gave a drink to")
result.show()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambascope.bundled import bundled_models as bundled_models
    from mambascope.errors import CheckpointError as CheckpointError
    from mambascope.errors import InputError as InputError
    from mambascope.errors import MambascopeError as MambascopeError
    from mambascope.errors import MapTooLargeError as MapTooLargeError
    from mambascope.errors import OutputError as OutputError
    from mambascope.errors import ReconstructionError as ReconstructionError
    from mambascope.errors import UnsupportedModelError as UnsupportedModelError
    from mambascope.explanation import DEFAULT_METHOD as DEFAULT_METHOD
    from mambascope.explanation import Question as Question
    from mambascope.explanation import explain as explain
    from mambascope.explanation import explain_inputs as explain_inputs
    from mambascope.explanation import explain_methods as explain_methods
    from mambascope.explanation import explain_picture as explain_picture
    from mambascope.methods.alti import alti as alti
    from mambascope.methods.alti import alti_rollout as alti_rollout
    from mambascope.methods.alti import alti_rollout_row as alti_rollout_row
    from mambascope.methods.alti_logit import alti_logit as alti_logit
    from mambascope.methods.attribution import Attribution as Attribution
    from mambascope.methods.gradients import gradient_x_input as gradient_x_input
    from mambascope.methods.gradients import integrated_gradients as integrated_gradients
    from mambascope.methods.gradients import smooth_grad as smooth_grad
    from mambascope.methods.hidden_attention import hidden_attention as hidden_attention
    from mambascope.methods.implicit_attention import implicit_attention as implicit_attention
    from mambascope.methods.implicit_attention import implicit_rollout_row as implicit_rollout_row
    from mambascope.methods.interventions import knockout as knockout
    from mambascope.methods.interventions import value_zeroing as value_zeroing
    from mambascope.methods.latim import contributions as contributions
    from mambascope.methods.latim import latim as latim
    from mambascope.methods.mamba_attribution import mamba_attribution as mamba_attribution
    from mambascope.methods.mamba_lrp import LRP as LRP
    from mambascope.methods.mamba_lrp import LRP_VISION as LRP_VISION
    from mambascope.methods.mamba_lrp import mamba_lrp as mamba_lrp
    from mambascope.methods.norm_based import norm_based as norm_based
    from mambascope.methods.occlusion import occlusion as occlusion
    from mambascope.methods.raw_attention import raw_attention as raw_attention
    from mambascope.methods.readout import Readout as Readout
    from mambascope.methods.readout import class_readout as class_readout
    from mambascope.methods.readout import continuation_readout as continuation_readout
    from mambascope.methods.readout import token_readout as token_readout
    from mambascope.methods.registry import METHODS as METHODS
    from mambascope.methods.rollout import rollout as rollout
    from mambascope.methods.rollout import rollout_row as rollout_row
    from mambascope.methods.transformer_attribution import transformer_attribution as transformer_attribution
    from mambascope.trace import Block as Block
    from mambascope.trace import Branch as Branch
    from mambascope.trace import Trace as Trace
    from mambascope.trace import capture as capture
    from mambascope.trace.differentiate import differentiate as differentiate
    from mambascope.trace.differentiate import direction as direction
    from mambascope.trace.load import load as load
    from mambascope.trace.pictures import read_picture as read_picture
    from mambascope.trace.rules import Rules as Rules
    from mambascope.trace.vim import VisionMamba as VisionMamba
    from mambascope.trace.vim import VisionMambaConfig as VisionMambaConfig

__version__ = "0.1.0"

#: Where each public name lives. It is fetched on first use: torch and transformers take seconds to import.
_HOMES = {
    name: f"mambascope.{module}"
    for module, names in {
        "bundled": ["bundled_models"],
        "errors": [
            "CheckpointError",
            "InputError",
            "MambascopeError",
            "MapTooLargeError",
            "OutputError",
            "ReconstructionError",
            "UnsupportedModelError",
        ],
        "explanation": [
            "DEFAULT_METHOD",
            "Question",
            "explain",
            "explain_inputs",
            "explain_methods",
            "explain_picture",
        ],
        "methods.alti": ["alti", "alti_rollout", "alti_rollout_row"],
        "methods.alti_logit": ["alti_logit"],
        "methods.attribution": ["Attribution"],
        "methods.gradients": ["gradient_x_input", "integrated_gradients", "smooth_grad"],
        "methods.hidden_attention": ["hidden_attention"],
        "methods.implicit_attention": ["implicit_attention", "implicit_rollout_row"],
        "methods.interventions": ["knockout", "value_zeroing"],
        "methods.latim": ["contributions", "latim"],
        "methods.mamba_attribution": ["mamba_attribution"],
        "methods.mamba_lrp": ["LRP", "LRP_VISION", "mamba_lrp"],
        "methods.norm_based": ["norm_based"],
        "methods.occlusion": ["occlusion"],
        "methods.raw_attention": ["raw_attention"],
        "methods.readout": ["Readout", "class_readout", "continuation_readout", "token_readout"],
        "methods.registry": ["METHODS"],
        "methods.rollout": ["rollout", "rollout_row"],
        "methods.transformer_attribution": ["transformer_attribution"],
        "trace": ["Block", "Branch", "Trace", "capture"],
        "trace.differentiate": ["differentiate", "direction"],
        "trace.load": ["load"],
        "trace.pictures": ["read_picture"],
        "trace.rules": ["Rules"],
        "trace.vim": ["VisionMamba", "VisionMambaConfig"],
    }.items()
    for name in names
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mambascope' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
