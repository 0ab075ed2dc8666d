"""One text before one model and what is asked about it; passes through the model are run once and shared by methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mambascope.brief import brief
from mambascope.errors import InputError
from mambascope.methods.readout import FeatureReadout, Readout
from mambascope.methods.released import Compat
from mambascope.trace import Trace
from mambascope.trace.differentiate import Gradients, differentiate, direction


@dataclass(frozen=True, eq=False)
class Case:
    """What a method that explains the whole model is given.

    Attributes:
        model: The model.
        inputs: What it is called with; one text.
        trace: A capture of that call.
        positions: The target positions, whose rows are averaged.
        asked: The number to explain, or None for a model without a head.
        compat: Published or released behaviour.
    """

    model: nn.Module
    inputs: Mapping[str, Any]
    trace: Trace
    positions: tuple[int, ...]
    asked: Readout | FeatureReadout | None
    compat: Compat = "published"

    __repr__ = brief

    @property
    def readout(self) -> Readout | FeatureReadout:
        """The number to explain.

        Raises:
            InputError: if there is none, because the model has no head.
        """
        if self.asked is None:
            raise InputError(
                "this model has no head, so there is no logit to explain; load it with its language-model or "
                "classification head, or choose a method that needs none"
            )
        return self.asked

    @cached_property
    def gradients(self) -> Gradients:
        """The readout's true gradient at the embeddings and at every mixer's output."""
        return differentiate(self.model, self.readout, mixers=True, **self.inputs)

    @cached_property
    def direction(self) -> Gradients:
        """The residual stream before the final norm and the readout's direction in it."""
        return direction(self.model, self.readout, **self.inputs)


@dataclass(frozen=True, eq=False)
class Scored:
    """What a method returns for a case.

    Attributes:
        scores: One row for the whole model, or one per layer.
        diagnostics: The evidence: `conservation_error`, and what else tells how far to trust the scores.
        over_layers: How the layers' rows make the model's.
        pixels: Scores of a picture's pixels, from methods that go down to them.
    """

    scores: Float[Tensor, "layer L"]
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    over_layers: Literal["mean", "sum"] = "sum"
    pixels: Float[Tensor, "H W"] | None = None

    __repr__ = brief


def at_positions(trace: Trace, scores: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows L"]:
    """Return scores of embedded tokens as scores of positions: a class token put before them has no embedding."""
    return F.pad(scores, (trace.shape[1] - scores.shape[1], 0))
