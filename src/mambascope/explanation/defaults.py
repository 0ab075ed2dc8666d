"""Which method explains when none is named."""

from __future__ import annotations

from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from mambascope.families import kinds_of
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import Layers

#: The method that shows layers, every position, or a model without a head, when none is named: of those that can, it
#: agrees best with interventions in the size of its scores (docs/agreement.md).
DEFAULT_METHOD = next(method.name for method in METHODS.values() if method.shows_layers)


def answering() -> list[Method]:
    """Return the methods that explain a prediction when none is named, of which the first that can is taken.

    They find best what the answer was drawn from where that is known (docs/evaluation.md), and agree best with
    interventions in sign.
    """
    return sorted((one for one in METHODS.values() if one.answers is not None), key=lambda one: one.answers or 0)


def default_method(
    model: nn.Module,
    target: str | int | None = None,
    foil: str | int | None = None,
    continuation: str | None = None,
    *,
    layer: Layers = "all",
    targets: Literal["position", "all"] = "position",
) -> str:
    """Return the method that explains when none is named; arguments as in `explain`."""
    named = target is not None or foil is not None or continuation is not None
    if isinstance(model, StagedModel):
        return next(one.name for one in answering() if one.by_stage) if named else DEFAULT_METHOD
    if not named and (layer != "all" or targets == "all" or not has_head(model)):
        return DEFAULT_METHOD
    kinds = kinds_of(model)
    return next(one.name for one in answering() if one.reads(kinds))


def has_head(model: nn.Module) -> bool:
    """Return whether a model predicts something, so that there is a number to explain."""
    if isinstance(getattr(model, "head", None), nn.Module):
        return True
    return isinstance(model, PreTrainedModel) and (
        model.base_model is not model or model.get_output_embeddings() is not None
    )
