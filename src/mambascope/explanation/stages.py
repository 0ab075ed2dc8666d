"""Models whose stages read fewer and fewer tokens: one stage is explained at a time, from its own tokens.

A class is then explained for all of the stage's tokens alike; the model reads it from the mean of the last stage's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mambascope.errors import InputError, UnsupportedModelError
from mambascope.methods.method import Method
from mambascope.methods.registry import METHODS
from mambascope.models.picture_models import StagedModel
from mambascope.numbering import whole_number
from mambascope.trace import Trace


def stage_number(model: Any, methods: Sequence[Method], stage: int | None) -> int | None:
    """Return the number of the stage that is explained, from 0; None for models without stages.

    By default it is the last, or the first for methods that go back to the embedded tokens.

    Raises:
        InputError: if there is no such stage.
        UnsupportedModelError: if a method cannot explain it.
    """
    if not isinstance(model, StagedModel):
        if stage is not None:
            raise InputError(f"{type(model).__name__} has no stages: all its layers read the same tokens")
        return None
    count = len(model.cells())
    stage = None if stage is None else whole_number(stage, "stage")
    if stage is not None and not -count <= stage < count:
        raise InputError(f"stage {stage} does not exist: the model has {count} that mix tokens, 0 to {count - 1}")
    back = any(method.reaches_embeddings for method in methods)
    number = (0 if back else count - 1) if stage is None else stage % count
    unable = [method.name for method in methods if not explains_stage(model, method, number)]
    if unable:
        able = ", ".join(one.name for one in METHODS.values() if explains_stage(model, one, number))
        raise UnsupportedModelError(
            f"{unable[0]} cannot explain stage {number} of a {type(model).__name__} by itself; these can: {able}"
        )
    return number


def explains_stage(model: StagedModel, method: Method, number: int) -> bool:
    """Return whether a method can explain one stage by itself."""
    if method.reaches_embeddings:
        return number == 0 and model.cells()[0] == model.embedded_cell
    if method.takes_means and model.centred_end:
        return number != len(model.cells()) - 1
    return method.by_stage


def one_stage(model: StagedModel, trace: Trace, number: int) -> Trace:
    """Return the part of a trace that is one stage.

    Raises:
        UnsupportedModelError: if the stage reads its picture in several windows, each by itself, or two stages read the
            same number of tokens.
    """
    if len(trace.stages) != len(model.cells()):
        raise UnsupportedModelError(
            f"stages of this {type(model).__name__} that follow each other read the same number of tokens, so they "
            "cannot be told apart; explain a larger picture"
        )
    found = trace.stages[number]
    pictures = found.shape[0] if trace.logits is None else len(trace.logits)
    if found.shape[0] != pictures:
        raise UnsupportedModelError(
            f"stage {number} of this {type(model).__name__} reads the picture in {found.shape[0] // pictures} windows, "
            "each by itself; only a single window can be explained, as at the size that the model was made for"
        )
    return found
