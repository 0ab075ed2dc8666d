"""From the options of `explain` to a question; contradictory options are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from torch import nn

from mambascope.arguments import choice
from mambascope.errors import InputError, UnsupportedModelError
from mambascope.explanation.question import Question
from mambascope.explanation.stages import stage_number
from mambascope.explanation.subject import Subject
from mambascope.inputs.preparation import reads_pictures
from mambascope.methods.latim import Precision
from mambascope.methods.method import Method
from mambascope.methods.reference_code import check_variant
from mambascope.methods.registry import METHODS
from mambascope.models.vim import VisionMamba
from mambascope.numbering import Layers, LayersAsked, read_layers, shown, whole_number, whole_numbers


def ask(
    subject: Subject,
    methods: Sequence[Method],
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    position: int | None = None,
    positions: Layers | None = None,
    patch: tuple[int, int] | None = None,
    each: bool = False,
    stage: int | None = None,
) -> Question:
    """Return the question that these options ask; arguments as in `explain`.

    Raises:
        InputError: if the options contradict each other, or a patch is asked for where there is none or by a method
            whose result does not depend on it.
    """
    ways = {"position": position, "positions": positions, "patch": patch}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} both say which position is explained; give one of them")
    if subject.following is not None and (given or target is not None):
        what = "generated tokens are explained at their" if each else "a continuation is explained at its"
        raise InputError(f"{what} own positions; leave out target and position")
    if patch is None:
        where = positions if position is None else (whole_number(position, "position"),)
        return Question(target, foil, where, each)
    if not reads_pictures(subject.model):
        raise InputError(f"patch is a place in a picture, and {type(subject.model).__name__} reads text; use position")
    features = target is None and foil is None and has_features(subject.model)
    check_patch(methods, patch, features=features)
    grid = subject.grid(stage_number(subject.model, methods, stage))
    if grid is None:
        raise UnsupportedModelError(f"{type(subject.model).__name__} does not say how it cuts pictures into patches")
    place = whole_numbers(patch, "patch")
    if len(place) != 2:
        raise InputError(f"a patch is a row and a column from 0, such as (3, 7), found {shown(patch)}")
    return Question(target, foil, (grid.position(*place),), each, features)


def check_options(methods: Sequence[Method], layer: LayersAsked, variant: str) -> None:
    """Raise InputError if a method has no such variant, or cannot explain single layers."""
    check_variant(variant)
    whole = read_layers(layer) == "all"
    for method in methods:
        if variant == "reference-code" and not method.reference_code:
            able = ", ".join(m.name for m in METHODS.values() if m.reference_code)
            raise InputError(f"{method.name} has one variant; variant='reference-code' is for {able}")
        if method.scope == "model" and not whole:
            raise InputError(f"{method.name} explains the whole model, not single layers; leave layer='all'")


def check_precision(methods: Sequence[Method], precision: str, *, every: bool) -> None:
    """Raise InputError if products are asked for in a precision that a method does not have, or where none is saved.

    Args:
        methods: The methods.
        precision: That of products with W_o.
        every: Whether all positions are explained.
    """
    if choice(precision, get_args(Precision), "precision") == "own":
        return
    for method in methods:
        if method.map_error is None:
            able = ", ".join(one.name for one in METHODS.values() if one.map_error is not None)
            raise InputError(f"{method.name} has one precision; precision={precision!r} is for {able}")
    if not every:
        raise InputError(
            f"precision={precision!r} is for maps of all positions, and saves nothing elsewhere; leave it out, or pass "
            "positions='all'"
        )


def check_targets(methods: Sequence[Method], target: str | int | None, foil: str | int | None) -> None:
    """Raise InputError if a target or foil is named for a method that does not depend on the prediction."""
    unable = [method for method in methods if not method.asks]
    if unable and (target is not None or foil is not None):
        able = ", ".join(method.name for method in METHODS.values() if method.asks)
        raise InputError(
            f"{unable[0].name} scores a position, whatever is predicted there; to explain a target or foil choose one "
            f"of {able}"
        )


def check_patch(methods: Sequence[Method], patch: tuple[int, int] | None, *, features: bool) -> None:
    """Raise InputError if a patch is asked for by a method whose result does not depend on it.

    Args:
        methods: The methods.
        patch: The patch, or None.
        features: Whether the number to explain is the size of the patch's own features, not a class's logit.
    """
    unable = [method.name for method in methods if not method.by_place]
    if patch is not None and unable and not features:
        able = ", ".join(method.name for method in METHODS.values() if method.by_place)
        raise InputError(f"{unable[0]} explains a class, not a single patch; choose one of {able}")


def check_spans(methods: Sequence[Method], spans: object, *others: object) -> None:
    """Raise InputError if spans are to be removed by a method that removes single tokens, or beside other options."""
    if spans is None:
        return
    unable = [method.name for method in methods if method.score_spans is None]
    if unable:
        able = ", ".join(method.name for method in METHODS.values() if method.score_spans is not None)
        raise InputError(
            f"{unable[0]} scores single tokens, whose scores result.spans(…) takes together; spans are removed as a "
            f"whole by {able}"
        )
    if not isinstance(spans, Mapping) or not spans:
        raise InputError(f"spans must be given by name, such as {{'the question': (12, 40)}}, found {shown(spans)}")
    if any(others):
        raise InputError("spans are removed as a whole, and views and verify are of single tokens; leave these out")


def check_place(methods: Sequence[Method], *, one: bool) -> None:
    """Raise InputError if a class is asked for at several positions from a method whose result does not depend on them.

    Args:
        methods: The methods.
        one: Whether there is a single position.
    """
    unable = [method.name for method in methods if not method.by_place]
    if unable and not one:
        able = ", ".join(method.name for method in METHODS.values() if method.by_place)
        raise InputError(f"{unable[0]} explains a class, not single positions; choose one of {able}")


def has_features(model: nn.Module) -> bool:
    """Return whether a model returns the features of its patches as well as its classes."""
    return isinstance(model, VisionMamba)
