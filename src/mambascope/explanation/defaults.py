"""The methods used when none is named."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from mambascope.families import kinds_of
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import Layers

#: The default for single layers, for all positions and for models without a head: of the methods that can score these,
#: it agrees best with interventions in the size of its scores (docs/agreement.md).
DEFAULT_METHOD = next(method.name for method in METHODS.values() if method.shows_layers)


def answering() -> list[Method]:
    """Return the defaults for a prediction, of which the first that can read the model and does not defer is used.

    Where it is known what an answer was drawn from, they find it best (docs/evaluation.md), and they agree best with
    interventions in sign.
    """
    return sorted((one for one in METHODS.values() if one.answers is not None), key=lambda one: one.answers or 0)


def default_method(model: nn.Module, asks: bool = False, *, layer: Layers = "all", every: bool = False) -> str:
    """Return the method to use when none is named.

    Args:
        model: The model.
        asks: Whether the question names a target, a foil, a continuation or generated tokens.
        layer: The layers to explain.
        every: Whether every position is explained.
    """
    if isinstance(model, StagedModel):
        return next(one.name for one in answering() if one.by_stage) if asks else DEFAULT_METHOD
    if not asks and (layer != "all" or every or not has_head(model)):
        return DEFAULT_METHOD
    kinds = kinds_of(model)
    return next(one.name for one in answering() if one.reads(kinds) and not kinds <= one.defers)


def has_head(model: nn.Module) -> bool:
    """Return whether a model makes predictions, so that there is a number to explain."""
    if isinstance(getattr(model, "head", None), nn.Module):
        return True
    return isinstance(model, PreTrainedModel) and (
        model.base_model is not model or model.get_output_embeddings() is not None
    )
